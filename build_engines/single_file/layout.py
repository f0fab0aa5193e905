"""The known published layouts: the places of their parts, and their distinguishing tensors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_engines.errors import CheckpointError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
_UNET_KEY = f"{UNET_PREFIX}input_blocks.0.0.weight"
_VAE_KEY = f"{VAE_PREFIX}decoder.conv_in.weight"


@dataclass(frozen=True)
class TextPart:
    """A text encoder in the file: OpenAI's CLIP or OpenCLIP's."""

    part: str
    tokenizer: str
    prefix: str
    openclip: bool = False
    projection: bool = False
    """Whether the projection of the pooled output is used."""
    penultimate_only: bool = False
    """Whether the last layer is not used, and skipped."""

    @property
    def token_key(self) -> str:
        """Name of the token embedding's weight, [V, D]."""
        inner = "" if self.openclip else "text_model.embeddings."
        return f"{self.prefix}{inner}token_embedding.weight"


@dataclass(frozen=True)
class Layout:
    """One family's published layout, and its constants that do not follow from tensors."""

    title: str
    text: tuple[TextPart, ...]
    latent_scale: float
    attention_heads: int | None = None
    """Heads of every attention layer of the UNet; None: each head is 64 wide."""
    size_ids: int = 0
    """Number of the UNet's size ids (sizes, crop, …) beside the pooled text; 0: none."""


_CLIP_L = "conditioner.embedders.0.transformer."
LAYOUTS = (
    Layout(
        title="Stable Diffusion 1.x",
        text=(TextPart("text_encoder", "tokenizer", "cond_stage_model.transformer."),),
        latent_scale=0.18215,
        attention_heads=8,
    ),
    Layout(
        title="Stable Diffusion 2.x",
        text=(
            TextPart(
                *("text_encoder", "tokenizer", "cond_stage_model.model."),
                openclip=True,
                penultimate_only=True,
            ),
        ),
        latent_scale=0.18215,
    ),
    Layout(
        title="Stable Diffusion XL",
        text=(
            TextPart("text_encoder", "tokenizer", _CLIP_L),
            TextPart(
                *("text_encoder_2", "tokenizer_2", "conditioner.embedders.1.model."),
                openclip=True,
                projection=True,
            ),
        ),
        latent_scale=0.13025,
        size_ids=6,
    ),
    Layout(
        title="Stable Diffusion XL refiner",
        text=(
            TextPart(
                *("text_encoder_2", "tokenizer_2", "conditioner.embedders.0.model."),
                openclip=True,
                projection=True,
            ),
        ),
        latent_scale=0.13025,
        size_ids=5,
    ),
)


def find_layout(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """The layout whose parts are all in the file.

    Args:
        path: the file, for messages.
        shapes: of its tensors, by name.

    Raises:
        CheckpointError: there is none; the message has the expected and the found names.
    """
    for layout in LAYOUTS:
        if all(text.token_key in shapes for text in layout.text):
            missing = [key for key in (_UNET_KEY, _VAE_KEY) if key not in shapes]
            if missing:
                raise CheckpointError(
                    f"{path}: {layout.title} text encoders, but no {' and no '.join(missing)}: "
                    f"a whole checkpoint is needed; found: {summary(shapes)}"
                )
            return layout
    for pattern, kind in _OTHER_FAMILIES.items():
        if any(re.match(pattern, name) for name in shapes):
            raise CheckpointError(
                f"{path}: {kind}, which is not supported; Stable Diffusion 1.x, 2.x, XL and its "
                f"refiner are. Found: {summary(shapes)}"
            )
    looked_for = "; ".join(
        f"{layout.title}: {', '.join(text.token_key for text in layout.text)}" for layout in LAYOUTS
    )
    raise CheckpointError(
        f"{path}: not a checkpoint of a known layout. Looked for {_UNET_KEY}, {_VAE_KEY} and one "
        f"of ({looked_for}); found: {summary(shapes)}"
    )


_OTHER_FAMILIES = {
    r"(model\.diffusion_model\.)?double_blocks\.": "a transformer of Flux's kind",
    r"(model\.diffusion_model\.)?joint_blocks\.": "Stable Diffusion 3",
    r"(model\.diffusion_model\.)?(input|middle|output)_blocks?\..*time_(stack|mixer)": (
        "a video model, as Stable Video Diffusion"
    ),
    r"(model\.diffusion_model\.)?(blocks\.\d+\.cross_attn|patch_embedding)\.": (
        "a transformer of PixArt's or Wan's kind"
    ),
}
"""Beginnings of the names of other families' tensors, which a Stable Diffusion has not."""


def summary(names: Iterable[str]) -> str:
    """The most frequent prefixes of a file's names, e.g. ``lora_unet_down… (264 tensors)``."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    shown = [f"{start} ({count})" for start, count in counts.most_common(5)]
    return ", ".join(shown) + (" …" if len(counts) > 5 else "") if shown else "no tensors"
