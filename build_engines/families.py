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
from build_engines.requirements import Field, Requirement

FamilyName = Literal["sd1"]


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint: its networks in build order and what tells it from others."""

    name: FamilyName
    title: str
    networks: tuple[type[NetworkExport], ...]
    requirements: tuple[Requirement, ...]

    def source_files(self, checkpoint: Checkpoint) -> dict[str, Path]:
        """Every file that goes into the build, by its path relative to the checkpoint.

        Raises:
            CheckpointError: one is missing, or there is only a pickle.
        """
        parts = dict.fromkeys(network.part for network in self.networks)
        encoders = [cls for cls in self.networks if issubclass(cls, ClipTextEncoder)]
        return checkpoint.source_files(parts, [encoder.tokenizer for encoder in encoders])

    def open_networks(self, checkpoint: Checkpoint, controlled: bool) -> list[NetworkExport]:
        """The networks, each with its configuration; ``controlled``: for ControlNets too."""
        networks: list[NetworkExport] = []
        for cls in self.networks:
            config = checkpoint.json(f"{cls.part}/config.json")
            networks.append(cls(config, controlled) if issubclass(cls, Unet) else cls(config))
        return networks


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    networks=(ClipTextEncoder, Unet, VaeEncoder, VaeDecoder),
    requirements=(
        Field("unet/config.json", "_class_name", ("UNet2DConditionModel",)),
        Field("unet/config.json", "in_channels", (4, 9)),
        Field("unet/config.json", "out_channels", (4,)),
        Field("unet/config.json", "addition_embed_type", (None,)),
        Field("unet/config.json", "use_linear_projection", (False,), default=False),
        Field("text_encoder/config.json", "model_type", ("clip_text_model",)),
        Field("text_encoder/config.json", "hidden_act", ("quick_gelu",)),
        Field("text_encoder/config.json", "max_position_embeddings", (77,), default=77),
        Field("vae/config.json", "_class_name", ("AutoencoderKL",)),
        Field("vae/config.json", "latent_channels", (4,)),
    ),
)
FAMILIES: tuple[Family, ...] = (SD1,)


def detect(checkpoint: Checkpoint) -> Family:
    """The family that the checkpoint belongs to.

    Raises:
        CheckpointError: none; the message names the first thing in which it differs from the
            nearest family, or the file that is missing.
    """
    problems = {family: _problems(family, checkpoint) for family in FAMILIES}
    nearest = min(problems, key=lambda family: len(problems[family]))
    if problems[nearest]:
        raise CheckpointError(f"{problems[nearest][0]}; not a {nearest.title} checkpoint")
    return nearest


def _problems(family: Family, checkpoint: Checkpoint) -> list[CheckpointError]:
    problems = []
    for requirement in family.requirements:
        try:
            requirement.check(checkpoint)
        except CheckpointError as error:
            problems.append(error)
    return problems
