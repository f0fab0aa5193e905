"""Converts tensors of a published checkpoint to those of diffusers' modules, without reading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from build_engines.checkpoint import StoredTensor
from build_engines.single_file.names import openclip_module, unet_module, vae_module

_LEFT_OUT_OF_VAE = ("loss.", "model_ema.")
_LEFT_OUT_OF_OPENCLIP = ("logit_scale", "attn_mask")
_PROJECTION = ("text_projection", "text_projection.weight")
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def unet_tensors(tensor: StoredTensor, layers_per_block: int) -> Iterator[StoredTensor]:
    """Renames the UNet's tensors."""
    module, _, kind = tensor.name.rpartition(".")
    yield replace(tensor, name=f"{unet_module(module, layers_per_block)}.{kind}")


def vae_tensors(tensor: StoredTensor, blocks: int) -> Iterator[StoredTensor]:
    """Renames the VAE's tensors; attention's 1×1 convolutions [C, C, 1, 1] become [C, C]."""
    if tensor.name.startswith(_LEFT_OUT_OF_VAE):
        return
    module, _, kind = tensor.name.rpartition(".")
    renamed = replace(tensor, name=f"{vae_module(module, blocks)}.{kind}")
    if ".attentions." in renamed.name and renamed.shape[2:] == (1, 1):
        shape = renamed.shape[:2]
        renamed = replace(renamed, shape=shape, read=lambda: tensor.read().reshape(shape))
    yield renamed


def clip_tensors(tensor: StoredTensor) -> Iterator[StoredTensor]:
    """CLIP's tensors, which have transformers' names."""
    yield tensor


def openclip_tensors(tensor: StoredTensor, layers: int, projection: bool) -> Iterator[StoredTensor]:
    """Converts tensors of OpenCLIP's text transformer.

    Args:
        layers: the number of used layers; further ones are skipped.
        projection: whether the projection of the pooled output is used.
    """
    name = tensor.name
    if name in _LEFT_OUT_OF_OPENCLIP or (name in _PROJECTION and not projection):
        return
    if name == "text_projection.weight":  # [P, D], as transformers stores it
        yield tensor
        return
    if name == "text_projection":  # multiplied from the right: pooled [D] @ projection [D, P]
        turned = (tensor.shape[1], tensor.shape[0])
        yield StoredTensor("text_projection.weight", turned, lambda: tensor.read().T)
        return
    if name == "positional_embedding":
        yield replace(tensor, name="text_model.embeddings.position_embedding.weight")
        return
    layer = re.match(r"transformer\.resblocks\.(\d+)\.", name)
    if layer and int(layer[1]) >= layers:
        return
    if joined := re.fullmatch(r"(.+\.attn)\.in_proj_(weight|bias)", name):
        attention = openclip_module(joined[1]).removesuffix(".attn") + ".self_attn"
        shape = (tensor.shape[0] // 3, *tensor.shape[1:])
        for index, part in enumerate(_PROJECTIONS):
            read = partial(_third, tensor, index)
            yield StoredTensor(f"{attention}.{part}.{joined[2]}", shape, read)
        return
    module, _, kind = name.rpartition(".")
    yield replace(tensor, name=f"{openclip_module(module)}.{kind}")


def _third(tensor: StoredTensor, index: int) -> torch.Tensor:
    return tensor.read().chunk(3)[index]
