"""Reads the names of a LoRA file's tensors: which module each belongs to, and what it is there.

A name is a prefix for the network, the module's name and the tensor's role. Prefixes and roles of
all layouts are read in any combination, as files come with many of them:

- kohya: ``lora_unet_…``, ``lora_te_…``, ``lora_te1_…``, ``lora_te2_…``, the module's name with
  underscores; ``.lora_down.weight``, ``.lora_up.weight``, ``.lora_mid.weight``, ``.alpha``;
- diffusers: ``unet.…``, ``text_encoder.…``, ``text_encoder_2.…``; ``.lora_A.weight``,
  ``.lora.down.weight``, ``.lora_linear_layer.down.weight``, ``.processor.to_q_lora.down.weight``;
- PEFT: ``base_model.model.`` before or after these prefixes, or alone; ``.lora_A.NAME.weight``;
- ComfyUI: ``diffusion_model.…``, ``text_encoders.clip_l.…``, ``text_encoders.clip_g.…``; also
  differences of whole tensors, ``.diff``, ``.diff_b`` (LyCORIS: ``.w_norm``, ``.b_norm``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PEFT = "base_model.model."
_PARTS = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "unet.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "diffusion_model.": "unet",
    "model.diffusion_model.": "unet",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_h.": "text_encoder",
    "text_encoders.clip_g.": "text_encoder_2",
}
_MATRICES = {
    "lora_down": "down",
    "lora_up": "up",
    "lora_mid": "mid",
    "lora_A": "down",
    "lora_B": "up",
    "lora.down": "down",
    "lora.up": "up",
    "lora_linear_layer.down": "down",
    "lora_linear_layer.up": "up",
}
_DIFFERENCES = {"diff": "diff", "w_norm": "diff", "diff_b": "diff_b", "b_norm": "diff_b"}
_MATRIX = re.compile(rf"(.+)\.({'|'.join(map(re.escape, _MATRICES))})(?:\.[^.]+)?\.weight")
_DIFFERENCE = re.compile(rf"(.+)\.({'|'.join(_DIFFERENCES)})(?:\.weight)?")
_ALPHA = re.compile(r"(.+?)(?:\.lora|\.lora_linear_layer)?\.alpha")
_OLD_PROJECTION = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora\.")
_OTHER_KINDS = {
    r"dora_scale|lora_magnitude_vector(\..+)?": "DoRA",
    r"hada_.+": "LoHa",
    r"lokr_.+": "LoKr",
    r"[bo]*oft_.+": "OFT",
    r"[abc][12]\.weight": "GLoRA",
    r"on_input": "IA3",
    r"scalar": "LyCORIS' trained scalar",
    r"lora_embedding_[AB](\..+)?": "LoRA of an embedding",
    r"lora_[AB](\..+)?\.bias|lora_up\.bias": "LoRA with a bias",
    r"set_weight|reshape_weight|(modules_to_save|base_layer)\..+": "replaced weight",
    r"weight|bias": "whole weight",
}
_OTHER = [(re.compile(rf"(.+?)\.({ends})"), kind) for ends, kind in _OTHER_KINDS.items()]


@dataclass(frozen=True)
class Key:
    """A tensor's name, taken apart."""

    module: str
    """The module as the file names it, for messages."""
    part: str | None
    """The part of the checkpoint that the module is in; None: the name does not say it."""
    name: str
    """The module's name in its part, with dots or underscores; in diffusers' layout or, in the
    UNet, in the published one."""
    role: str
    """"down", "up", "mid", "alpha", "diff" of the weight or "diff_b" of the bias."""


def split_key(name: str) -> Key | None:
    """Takes a tensor's name apart; None: it is none of a known layout."""
    plain = _OLD_PROJECTION.sub(lambda match: _projection(name, match[1]), name)
    if match := _MATRIX.fullmatch(plain):
        return _key(match[1], _MATRICES[match[2]])
    if match := _DIFFERENCE.fullmatch(plain):
        return _key(match[1], _DIFFERENCES[match[2]])
    if match := _ALPHA.fullmatch(plain):
        return _key(match[1], "alpha")
    return None


def other_kind(name: str) -> tuple[str, str] | None:
    """The module and the kind of adapter of a name that :func:`split_key` does not know, such as
    "LoHa"; None: of no known kind."""
    if name.startswith("bundle_emb."):
        return name, "textual inversion in the file"
    for pattern, kind in _OTHER:
        if match := pattern.fullmatch(name):
            return match[1], kind
    return None


def _key(module: str, role: str) -> Key:
    part, name = None, module.removeprefix(_PEFT)
    for prefix, owner in _PARTS.items():
        if name.startswith(prefix):
            part, name = owner, name.removeprefix(prefix).removeprefix(_PEFT)
            break
    return Key(module, part, name, role)


def _projection(name: str, which: str) -> str:
    """The projection that diffusers' attention processors kept as ``to_q_lora``."""
    if ".self_attn." in name:
        return f".{which}_proj.lora."
    return f".to_{which}{'.0' * (which == 'out')}.lora."
