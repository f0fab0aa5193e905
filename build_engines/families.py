"""Which checkpoints can be built: each family, its networks, and how it is recognised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError
from build_engines.networks import (
    ClipTextEncoder,
    NetworkExport,
    Unet,
    VaeDecoder,
    VaeEncoder,
)

FamilyName = Literal["sd1"]


@dataclass(frozen=True)
class Requirement:
    """The values that a field of a checkpoint's JSON file may have in a family."""

    file: str
    field: str
    allowed: tuple[object, ...]
    default: object = None
    """What an absent field means."""

    def met_by(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint has one of these values."""
        return checkpoint.json(self.file).get(self.field, self.default) in self.allowed


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint: its networks in build order and what tells it from others."""

    name: FamilyName
    title: str
    networks: tuple[type[NetworkExport], ...]
    tokenizer: str
    """Folder of the checkpoint with vocab.json and merges.txt."""
    requirements: tuple[Requirement, ...]

    def source_files(self, checkpoint: Checkpoint) -> dict[str, Path]:
        """Every file that goes into the build, by its path relative to the checkpoint.

        Raises:
            CheckpointError: one is missing, or there is only a pickle.
        """
        parts = dict.fromkeys(network.part for network in self.networks)
        return checkpoint.source_files(parts, (self.tokenizer,))

    def open_networks(self, checkpoint: Checkpoint) -> list[NetworkExport]:
        """The networks, each with its configuration."""
        return [cls(checkpoint.json(f"{cls.part}/config.json")) for cls in self.networks]


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    networks=(ClipTextEncoder, Unet, VaeEncoder, VaeDecoder),
    tokenizer="tokenizer",
    requirements=(
        Requirement("unet/config.json", "_class_name", ("UNet2DConditionModel",)),
        Requirement("unet/config.json", "in_channels", (4, 9)),
        Requirement("unet/config.json", "out_channels", (4,)),
        Requirement("unet/config.json", "addition_embed_type", (None,)),
        Requirement("unet/config.json", "use_linear_projection", (False,), default=False),
        Requirement("text_encoder/config.json", "model_type", ("clip_text_model",)),
        Requirement("text_encoder/config.json", "hidden_act", ("quick_gelu",)),
        Requirement("text_encoder/config.json", "max_position_embeddings", (77,), default=77),
        Requirement("vae/config.json", "_class_name", ("AutoencoderKL",)),
        Requirement("vae/config.json", "latent_channels", (4,)),
    ),
)
FAMILIES: tuple[Family, ...] = (SD1,)


def detect(checkpoint: Checkpoint) -> Family:
    """The family that the checkpoint belongs to.

    Raises:
        CheckpointError: none; the message names the first thing in which it differs from the
            nearest family, or the file that is missing.
    """
    unmet = {
        family: [r for r in family.requirements if not r.met_by(checkpoint)] for family in FAMILIES
    }
    nearest = min(unmet, key=lambda family: len(unmet[family]))
    if not unmet[nearest]:
        return nearest
    first = unmet[nearest][0]
    found = checkpoint.json(first.file).get(first.field, first.default)
    raise CheckpointError(
        f"{checkpoint.root}: not a {nearest.title} checkpoint: {first.file} has "
        f"{first.field} {found!r}, {' or '.join(map(repr, first.allowed))} is expected"
    )
