"""The published single-file layout of a checkpoint whose networks are given as diffusers'.

:func:`published` says which tensors the file has and of which of diffusers' each is made, so that
a file can be written one tensor at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]

TEXT_PREFIXES = {
    "sd1": {"text_encoder": "cond_stage_model.transformer."},
    "sd2": {"text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    "sdxl_refiner": {"text_encoder_2": "conditioner.embedders.0.model."},
}
"""Where each family keeps its text encoders; those below ``.model.`` are in OpenCLIP's form."""

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PIECES = (
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("group_norm", "norm"),
    ("to_out.0", "proj_out"),
    ("to_", ""),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("resnets", "block"),
    ("samplers.0", "sample"),
)
_OPENCLIP_PIECES = (
    ("encoder.layers.", "transformer.resblocks."),
    ("embeddings.token_embedding", "token_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("layer_norm", "ln_"),
    ("self_attn", "attn"),
    ("fc1", "c_fc"),
    ("fc2", "c_proj"),
    ("text_projection.weight", "text_projection"),
)


@dataclass(frozen=True)
class Published:
    """A tensor of the single file: diffusers' tensors joined along their first axis."""

    name: str
    shape: Shape
    part: str
    sources: tuple[str, ...]
    transposed: bool = False


def published(
    family: str, configs: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, Mapping[str, Shape]]
) -> Iterator[Published]:
    """The tensors of the single file.

    Args:
        family: a key of :data:`TEXT_PREFIXES`.
        configs: part → contents of its config.json; "unet" and "vae" are looked at.
        shapes: part → diffusers' tensors, by name.
    """
    unet, vae = configs["unet"], configs["vae"]
    layers, up = unet["layers_per_block"], unet["up_block_types"]
    yield from _renamed(
        *("unet", shapes["unet"], "model.diffusion_model."),
        lambda name: unet_module(name, layers, up),
    )
    blocks = len(vae["block_out_channels"])
    for tensor in _renamed(
        *("vae", shapes["vae"], "first_stage_model."), lambda name: _vae(name, blocks)
    ):
        convolution = ".attn_1." in tensor.name and len(tensor.shape) == 2
        yield _reshaped(tensor, (*tensor.shape, 1, 1)) if convolution else tensor
    for part, prefix in TEXT_PREFIXES[family].items():
        names = {name.removeprefix("text_model."): name for name in shapes[part]}
        yield from (_openclip if ".model." in prefix else _clip)(part, prefix, names, shapes[part])


def _renamed(
    part: str, shapes: Mapping[str, Shape], prefix: str, rename: Callable[[str], str]
) -> Iterator[Published]:
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        yield Published(f"{prefix}{rename(module)}.{kind}", shape, part, (name,))


def _reshaped(tensor: Published, shape: Shape) -> Published:
    return Published(tensor.name, shape, tensor.part, tensor.sources)


def unet_module(module: str, layers: int, up_types: Sequence[str]) -> str:
    """The published name of a UNet's module that diffusers names ``down_blocks.0.…``.

    Args:
        layers: number of layers in a block.
        up_types: diffusers' types of the blocks of the up-path.
    """
    if module in _UNET_ENDS:
        return _UNET_ENDS[module]
    if module.startswith("mid_block."):
        _, kind, index, rest = module.split(".", 3)
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * int(index)}.{_UNET_RESNET[rest]}"
    side, block, kind, layer, rest = module.split(".", 4)
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op"
    if kind == "upsamplers":
        slot = 2 if up_types[int(block)].startswith("CrossAttn") else 1
        return f"output_blocks.{first + layers}.{slot}.conv"
    where = f"input_blocks.{first + 1 + int(layer)}"
    if side == "up_blocks":
        where = f"output_blocks.{first + int(layer)}"
    return f"{where}.1.{rest}" if kind == "attentions" else f"{where}.0.{_UNET_RESNET[rest]}"


def _vae(module: str, blocks: int) -> str:
    for theirs, name in _VAE_PIECES:
        module = module.replace(theirs, name)
    module = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}", module)
    return module.replace("down_blocks", "down")


def _clip(
    part: str, prefix: str, names: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterator[Published]:
    for name, source in names.items():
        yield Published(f"{prefix}text_model.{name}", shapes[source], part, (source,))


def _openclip(
    part: str, prefix: str, names: Mapping[str, str], shapes: Mapping[str, Shape]
) -> Iterator[Published]:
    for name, source in names.items():
        shape = shapes[source]
        published_name = name
        for theirs, own in _OPENCLIP_PIECES:
            published_name = published_name.replace(theirs, own)
        if name == "text_projection.weight":
            yield Published(prefix + published_name, (shape[1], shape[0]), part, (source,), True)
        elif match := re.search(r"(.+)\.q_proj\.(weight|bias)", name):
            sources = tuple(names[f"{match[1]}.{x}_proj.{match[2]}"] for x in "qkv")
            joined = f"{published_name.split('.q_proj')[0]}.in_proj_{match[2]}"
            yield Published(prefix + joined, (3 * shape[0], *shape[1:]), part, sources)
        elif not re.search(r"\.[kv]_proj\.", name):
            yield Published(prefix + published_name, shape, part, (source,))
