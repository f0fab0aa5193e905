"""Translates module names of published checkpoints into diffusers' names.

A module's name is without ``.weight`` and ``.bias``. An unknown name is returned unchanged, and
refused when the weights are loaded.
"""

from __future__ import annotations

import re

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
# LoRA files have these names with underscores.
_UNET_ENDS |= {name.replace(".", "_"): new for name, new in _UNET_ENDS.items()}
_UNET_RESNET |= {name.replace(".", "_"): new for name, new in _UNET_RESNET.items()}
_VAE_ENDS = {"norm_out": "conv_norm_out"}
_VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_OPENCLIP_ENDS = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "ln_final": "text_model.final_layer_norm",
}
_OPENCLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


_OLD_CLIP = re.compile(r"(.+\.transformer)\.((?:embeddings|encoder|final_layer_norm)\..+)")


def clip_tensor(name: str) -> str:
    """``….transformer.embeddings.…`` → ``….transformer.text_model.embeddings.…``: files of 2022,
    and of transformers 5, lack that level. Other names are returned unchanged."""
    return _OLD_CLIP.sub(r"\1.text_model.\2", name)


def unet_module(name: str, layers_per_block: int) -> str:
    """``input_blocks.4.1.proj_in`` → ``down_blocks.1.attentions.0.proj_in`` (2 layers a block).

    The published UNet numbers its blocks consecutively: after the first convolution, each
    resolution has its layers and, except the last, a block that changes the size. On the up-path
    each resolution has one more layer, and the size changes in the last of them.
    """
    if name in _UNET_ENDS:
        return _UNET_ENDS[name]
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):
        position, rest = int(match[1]), match[2]
        if position == 1:
            return f"mid_block.attentions.0.{rest}"
        return f"mid_block.resnets.{position // 2}.{_UNET_RESNET.get(rest, rest)}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", name)
    if match is None:
        return name
    index, slot, rest = int(match[2]), int(match[3]), match[4]
    down = match[1] == "input"
    block, layer = divmod(index - 1 if down else index, layers_per_block + 1)
    where = f"{'down' if down else 'up'}_blocks.{block}"
    if down and rest == "op":
        return f"{where}.downsamplers.0.conv"
    if not down and rest == "conv":
        return f"{where}.upsamplers.0.conv"
    if slot == 0:
        return f"{where}.resnets.{layer}.{_UNET_RESNET.get(rest, rest)}"
    return f"{where}.attentions.{layer}.{rest}"


def controlnet_module(name: str, layers_per_block: int, last_hint: int) -> str:
    """``zero_convs.3.0`` → ``controlnet_down_blocks.3``; the copied half as :func:`unet_module`.

    Args:
        last_hint: index of the last of ``input_hint_block``, whose convolutions have even ones.
    """
    if match := re.fullmatch(r"zero_convs\.(\d+)\.0", name):
        return f"controlnet_down_blocks.{match[1]}"
    if name == "middle_block_out.0":
        return "controlnet_mid_block"
    if match := re.fullmatch(r"input_hint_block\.(\d+)", name):
        index = int(match[1])
        ends = {0: "conv_in", last_hint: "conv_out"}
        return f"controlnet_cond_embedding.{ends.get(index, f'blocks.{index // 2 - 1}')}"
    return unet_module(name, layers_per_block)


def vae_module(name: str, blocks: int) -> str:
    """``decoder.up.3.block.0.conv1`` → ``decoder.up_blocks.0.resnets.0.conv1`` (4 blocks).

    The published decoder numbers its resolutions from the finest, diffusers from the coarsest.
    """
    half, _, rest = name.partition(".")
    if rest in _VAE_ENDS:
        return f"{half}.{_VAE_ENDS[rest]}"
    if match := re.fullmatch(r"mid\.block_([12])\.(.+)", rest):
        return f"{half}.mid_block.resnets.{int(match[1]) - 1}.{_vae_resnet(match[2])}"
    if match := re.fullmatch(r"mid\.attn_1\.(.+)", rest):
        return f"{half}.mid_block.attentions.0.{_VAE_ATTENTION.get(match[1], match[1])}"
    match = re.fullmatch(r"(down|up)\.(\d+)\.(.+)", rest)
    if match is None:
        return name
    direction, tail = match[1], match[3]
    index = int(match[2]) if direction == "down" else blocks - 1 - int(match[2])
    where = f"{half}.{direction}_blocks.{index}"
    if tail == f"{direction}sample.conv":
        return f"{where}.{direction}samplers.0.conv"
    if inner := re.fullmatch(r"block\.(\d+)\.(.+)", tail):
        return f"{where}.resnets.{inner[1]}.{_vae_resnet(inner[2])}"
    return name


def _vae_resnet(name: str) -> str:
    return "conv_shortcut" if name == "nin_shortcut" else name


def openclip_module(name: str) -> str:
    """``transformer.resblocks.3.mlp.c_fc`` → ``text_model.encoder.layers.3.mlp.fc1``."""
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
    if match is None:
        return _OPENCLIP_ENDS.get(name, name)
    rest = _OPENCLIP_LAYER.get(match[2], match[2])
    return f"text_model.encoder.layers.{match[1]}.{rest}"
