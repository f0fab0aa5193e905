"""The families of checkpoints that can be built: their networks and how they are recognised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError, OptionError
from build_engines.requirements import Field, NoPart, Requirement
from networks import (
    ClipTextEncoder,
    NetworkExport,
    SdxlRefinerUnet,
    SdxlTextEncoder,
    SdxlTextEncoder2,
    SdxlUnet,
    Unet,
    VaeDecoder,
    VaeEncoder,
)
from pipelines.descriptor import FamilyName


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint: its networks in build order and its distinguishing requirements."""

    name: FamilyName
    title: str
    networks: tuple[type[NetworkExport], ...]
    requirements: tuple[Requirement, ...]
    clip_skip: int
    """The text encoders' layer that its UNet was trained with, counted from the last one."""

    def source_files(self, checkpoint: Checkpoint) -> dict[str, Path]:
        """The source files by their paths relative to the checkpoint.

        Raises:
            CheckpointError: one is missing, or there is only a pickle.
        """
        parts = dict.fromkeys(network.part for network in self.networks)
        encoders = [cls for cls in self.networks if issubclass(cls, ClipTextEncoder)]
        return checkpoint.source_files(parts, [encoder.tokenizer for encoder in encoders])

    def open_networks(
        self, checkpoint: Checkpoint, controlled: bool, clip_skip: int | None = None
    ) -> list[NetworkExport]:
        """The networks with their configurations.

        Args:
            controlled: with inputs for ControlNets.
            clip_skip: the text encoders' layer, counted from the last one; None: the family's own.

        Raises:
            OptionError: there is no such layer, or it is after the family's own.
        """
        skipped = 0 if clip_skip is None else clip_skip - self.clip_skip
        networks: list[NetworkExport] = []
        for cls in self.networks:
            config = checkpoint.json(f"{cls.part}/config.json")
            if issubclass(cls, ClipTextEncoder):
                networks.append(encoder := cls(config, skipped))
                if not 0 <= skipped <= encoder.most_skipped:
                    most = self.clip_skip + encoder.most_skipped
                    raise OptionError(
                        f"clip_skip: {clip_skip}; allowed for this {self.title} checkpoint: "
                        f"{self.clip_skip} (its own) to {most}"
                    )
            else:
                networks.append(cls(config, controlled) if issubclass(cls, Unet) else cls(config))
        return networks


_UNET, _VAE = "unet/config.json", "vae/config.json"
_COMMON: tuple[Requirement, ...] = (
    Field(_UNET, "_class_name", ("UNet2DConditionModel",)),
    Field(_UNET, "in_channels", (4, 9)),
    Field(_UNET, "out_channels", (4,)),
    Field(_UNET, "class_embed_type", (None,)),
    Field(_UNET, "num_class_embeds", (None,)),
    Field(_UNET, "encoder_hid_dim_type", (None,)),
    Field(_UNET, "time_cond_proj_dim", (None,)),
    Field(_VAE, "_class_name", ("AutoencoderKL",)),
    Field(_VAE, "latent_channels", (4,)),
    Field(_VAE, "latents_mean", (None,)),
    Field(_VAE, "latents_std", (None,)),
    Field(_VAE, "shift_factor", (None, 0)),
)


def _unet(addition: str | None, linear_projection: bool) -> tuple[Requirement, ...]:
    return (
        Field(_UNET, "addition_embed_type", (addition,)),
        Field(_UNET, "use_linear_projection", (linear_projection,), default=False),
    )


def _clip(part: str, activation: str) -> tuple[Requirement, ...]:
    """OpenAI's encoder has the activation quick_gelu, OpenCLIP's has gelu."""
    config = f"{part}/config.json"
    return (
        Field(config, "model_type", ("clip_text_model",)),
        Field(config, "hidden_act", (activation,)),
        Field(config, "max_position_embeddings", (77,), default=77),
    )


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    networks=(ClipTextEncoder, Unet, VaeEncoder, VaeDecoder),
    requirements=(*_COMMON, *_unet(None, False), *_clip("text_encoder", "quick_gelu")),
    clip_skip=1,
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2.x",
    networks=(ClipTextEncoder, Unet, VaeEncoder, VaeDecoder),
    requirements=(*_COMMON, *_unet(None, True), *_clip("text_encoder", "gelu")),
    clip_skip=2,  # OpenCLIP's 24th layer is not among those of a checkpoint's configuration
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    networks=(SdxlTextEncoder, SdxlTextEncoder2, SdxlUnet, VaeEncoder, VaeDecoder),
    requirements=(
        *_COMMON,
        *_unet("text_time", True),
        *_clip("text_encoder", "quick_gelu"),
        *_clip("text_encoder_2", "gelu"),
    ),
    clip_skip=2,
)
SDXL_REFINER = Family(
    name="sdxl_refiner",
    title="Stable Diffusion XL refiner",
    networks=(SdxlTextEncoder2, SdxlRefinerUnet, VaeEncoder, VaeDecoder),
    requirements=(
        *_COMMON,
        *_unet("text_time", True),
        NoPart("text_encoder"),
        *_clip("text_encoder_2", "gelu"),
    ),
    clip_skip=2,
)
FAMILIES: tuple[Family, ...] = (SD1, SD2, SDXL, SDXL_REFINER)


def detect(checkpoint: Checkpoint) -> Family:
    """The checkpoint's family.

    Raises:
        CheckpointError: there is none; the message names the first difference to the nearest
            family, or the missing file.
    """
    problems = {family: _problems(family, checkpoint) for family in FAMILIES}
    nearest = min(problems, key=lambda family: len(problems[family]))
    if problems[nearest]:
        found = f", but a {kind}" if (kind := checkpoint.kind()) else ""
        raise CheckpointError(f"{problems[nearest][0]}; not a {nearest.title} checkpoint{found}")
    return nearest


def _problems(family: Family, checkpoint: Checkpoint) -> list[CheckpointError]:
    problems = []
    for requirement in family.requirements:
        try:
            requirement.check(checkpoint)
        except CheckpointError as error:
            problems.append(error)
    return problems
