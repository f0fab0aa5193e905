"""The configurations of a single file's parts in the form of diffusers' and transformers'
config.json: sizes from the tensors' shapes, the rest constants of the family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from build_engines.errors import CheckpointError
from build_engines.single_file.layout import UNET_PREFIX, VAE_PREFIX, Layout, TextPart

HEAD_WIDTH = 64
_OPENCLIP_H_LAYERS = 24


class Shapes:
    """Shapes of the tensors below a prefix."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> None:
        self._path = path
        self._prefix = prefix
        self._shapes = {
            name.removeprefix(prefix): shape
            for name, shape in shapes.items()
            if name.startswith(prefix)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def size(self, name: str, axis: int) -> int:
        """The length of a tensor's axis.

        Raises:
            CheckpointError: the tensor is missing or has too few axes.
        """
        shape = self._shapes.get(name)
        if shape is None or len(shape) <= axis:
            found = "is missing" if shape is None else f"has shape {list(shape)}"
            raise CheckpointError(f"{self._path}: {self._prefix}{name} {found}")
        return shape[axis]

    def axes(self, name: str) -> int:
        """The number of a tensor's axes; 0 if there is no such tensor."""
        return len(self._shapes.get(name, ()))

    def count(self, pattern: str) -> int:
        """The number of prefixes ``pattern.format(0)``, ``pattern.format(1)``, … that exist."""
        number = 0
        while any(name.startswith(pattern.format(number)) for name in self._shapes):
            number += 1
        return number


def read_configs(
    path: Path, shapes: Mapping[str, tuple[int, ...]], layout: Layout
) -> dict[str, dict[str, Any]]:
    """The configuration of each network, by its part.

    Raises:
        CheckpointError: a tensor with a size is missing, or two sizes do not fit.
    """
    configs = {
        text.part: _text_config(Shapes(path, shapes, text.prefix), text) for text in layout.text
    }
    configs["vae"] = _vae_config(Shapes(path, shapes, VAE_PREFIX), layout)
    unet = _unet_config(Shapes(path, shapes, UNET_PREFIX))
    widths = [configs[text.part]["hidden_size"] for text in layout.text]
    if unet["cross_attention_dim"] != sum(widths):
        raise CheckpointError(
            f"{path}: the UNet takes text {unet['cross_attention_dim']} wide, "
            f"{layout.title} text encoders give {' + '.join(map(str, widths))}"
        )
    heads = layout.attention_heads
    channels = unet["block_out_channels"]
    unet["attention_head_dim"] = heads or [max(1, width // HEAD_WIDTH) for width in channels]
    if layout.size_ids:
        pooled = configs[layout.text[-1].part]["projection_dim"]
        unet |= _size_conditioning(path, shapes, layout.size_ids, pooled)
    configs["unet"] = unet
    return configs


def _unet_config(shapes: Shapes) -> dict[str, Any]:
    """The UNet's configuration without "attention_head_dim", which is the number of heads in
    diffusers, by an old mistake."""
    channels, depths = _unet_blocks(shapes)
    layers = sum(
        f"input_blocks.{index}.0.in_layers.0.weight" in shapes for index in range(1, 100)
    ) // len(channels)
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    middle = shapes.count("middle_block.1.transformer_blocks.{}.")
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes.size("input_blocks.0.0.weight", 1),
        "out_channels": shapes.size("out.2.weight", 0),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        # The last block has the depth of the middle one.
        "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), middle],
        "cross_attention_dim": shapes.size(
            "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1
        ),
        "use_linear_projection": shapes.axes("middle_block.1.proj_in.weight") == 2,
        "addition_embed_type": None,
    }


def _unet_blocks(shapes: Shapes) -> tuple[list[int], list[int]]:
    """Channels and transformer depth (0: no attention) of each resolution, finest first."""
    channels, depths = [], []
    for index in range(1, shapes.count("input_blocks.{}.")):
        block = f"input_blocks.{index}."
        if f"{block}0.op.weight" in shapes:
            continue
        if index == 1 or f"input_blocks.{index - 1}.0.op.weight" in shapes:
            channels.append(shapes.size(f"{block}0.out_layers.3.weight", 0))
            depths.append(shapes.count(f"{block}1.transformer_blocks.{{}}."))
    shapes.size("input_blocks.1.0.in_layers.0.weight", 0)  # raises if there is none
    return channels, depths


def _size_conditioning(
    path: Path, shapes: Mapping[str, tuple[int, ...]], size_ids: int, pooled: int
) -> dict[str, Any]:
    """The size conditioning: pooled text and sines of the size ids, embedded with the time."""
    joined = Shapes(path, shapes, UNET_PREFIX).size("label_emb.0.0.weight", 1)
    if joined <= pooled or (joined - pooled) % size_ids:
        raise CheckpointError(
            f"{path}: {UNET_PREFIX}label_emb.0.0.weight takes {joined} values: "
            f"not {pooled} of pooled text and {size_ids} sizes"
        )
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": (joined - pooled) // size_ids,
        "projection_class_embeddings_input_dim": joined,
    }


def _vae_config(shapes: Shapes, layout: Layout) -> dict[str, Any]:
    blocks = shapes.count("encoder.down.{}.")
    widths = [shapes.size(f"encoder.down.{i}.block.0.conv2.weight", 0) for i in range(blocks)]
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes.size("encoder.conv_in.weight", 1),
        "out_channels": shapes.size("decoder.conv_out.weight", 0),
        "block_out_channels": widths,
        "layers_per_block": shapes.count("encoder.down.0.block.{}."),
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "latent_channels": shapes.size("decoder.conv_in.weight", 1),
        "scaling_factor": layout.latent_scale,
    }


def _text_config(shapes: Shapes, text: TextPart) -> dict[str, Any]:
    if text.openclip:
        tokens, positions = "token_embedding.weight", "positional_embedding"
        layer, wide = "transformer.resblocks.", "mlp.c_fc.weight"
    else:
        embeddings = "text_model.embeddings."
        tokens = f"{embeddings}token_embedding.weight"
        positions = f"{embeddings}position_embedding.weight"
        layer, wide = "text_model.encoder.layers.", "mlp.fc1.weight"
    layers, width = shapes.count(f"{layer}{{}}."), shapes.size(tokens, 1)
    # Files converted from a diffusers folder lack the layer that is not run.
    if text.penultimate_only and layers != _OPENCLIP_H_LAYERS - 1:
        layers -= 1
    return {
        "architectures": ["CLIPTextModelWithProjection" if text.projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": "gelu" if text.openclip else "quick_gelu",
        "hidden_size": width,
        "intermediate_size": shapes.size(f"{layer}0.{wide}", 0),
        "max_position_embeddings": shapes.size(positions, 0),
        "num_attention_heads": max(1, width // HEAD_WIDTH),
        "num_hidden_layers": layers,
        "projection_dim": _projection_dim(shapes) if text.projection else width,
        "vocab_size": shapes.size(tokens, 0),
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 0 if text.openclip else 49407,
    }


def _projection_dim(shapes: Shapes) -> int:
    """P of the pooled text's projection: OpenCLIP's [D, P], or a layer's weight [P, D]."""
    if "text_projection.weight" in shapes:
        return shapes.size("text_projection.weight", 0)
    return shapes.size("text_projection", 1)
