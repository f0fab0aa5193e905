"""Which checkpoints can be built: each family, its networks, and how it is recognised."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError
from build_engines.networks import (
    ClipTextEncoder,
    NetworkExport,
    Unet,
    VaeDecoder,
    VaeEncoder,
)
from pipelines.descriptor import Schedule

FamilyName = Literal["sd1"]
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Requirement:
    """A value that a checkpoint's JSON file must have to be of a family."""

    file: str
    field: str
    value: object
    default: object = None
    """What an absent field means."""

    def met_by(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint has that value."""
        return bool(checkpoint.json(self.file).get(self.field, self.default) == self.value)


@dataclass(frozen=True)
class Family:
    """A kind of checkpoint: its networks in build order and what tells it from others."""

    name: FamilyName
    title: str
    networks: tuple[type[NetworkExport], ...]
    tokenizer: str
    """Folder of the checkpoint with vocab.json and merges.txt."""
    requirements: tuple[Requirement, ...]

    def source_files(self, checkpoint: Checkpoint) -> list[str]:
        """Every file that goes into the build, relative to the checkpoint.

        Raises:
            CheckpointError: one is missing, or there is only a pickle.
        """
        parts = dict.fromkeys(network.part for network in self.networks)
        files = [SCHEDULER_CONFIG]
        for part in parts:
            files += [f"{part}/config.json", checkpoint.weights(part)]
        files += [
            f"{self.tokenizer}/{file}"
            for file in ("vocab.json", "merges.txt", "tokenizer_config.json")
        ]
        for file in files:
            checkpoint.path(file)
        return sorted(files)

    def open_networks(self, checkpoint: Checkpoint) -> list[NetworkExport]:
        """The networks, each with its configuration."""
        return [cls(checkpoint.json(f"{cls.part}/config.json")) for cls in self.networks]


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1.x",
    networks=(ClipTextEncoder, Unet, VaeEncoder, VaeDecoder),
    tokenizer="tokenizer",
    requirements=(
        Requirement("unet/config.json", "_class_name", "UNet2DConditionModel"),
        Requirement("unet/config.json", "in_channels", 4),
        Requirement("unet/config.json", "out_channels", 4),
        Requirement("unet/config.json", "addition_embed_type", None),
        Requirement("unet/config.json", "use_linear_projection", False, default=False),
        Requirement("text_encoder/config.json", "model_type", "clip_text_model"),
        Requirement("text_encoder/config.json", "hidden_act", "quick_gelu"),
        Requirement("text_encoder/config.json", "max_position_embeddings", 77, default=77),
        Requirement("vae/config.json", "_class_name", "AutoencoderKL"),
        Requirement("vae/config.json", "latent_channels", 4),
        Requirement(SCHEDULER_CONFIG, "prediction_type", "epsilon", default="epsilon"),
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
        f"{first.field} {found!r}, {first.value!r} is expected"
    )


def read_schedule(checkpoint: Checkpoint) -> Schedule:
    """The noise schedule that the UNet was trained with.

    Raises:
        CheckpointError: a kind of schedule that sampling does not have.
    """
    config = checkpoint.json(SCHEDULER_CONFIG)
    kind = config.get("beta_schedule", "scaled_linear")
    refused: Mapping[str, Callable[[Any], bool]] = {
        "beta_schedule": lambda _: kind != "scaled_linear",
        "trained_betas": lambda value: value is not None,
        "rescale_betas_zero_snr": bool,
    }
    for field, refuses in refused.items():
        if refuses(config.get(field)):
            raise CheckpointError(
                f"{SCHEDULER_CONFIG}: {field} {config.get(field)!r} is not supported"
            )
    default = Schedule()
    return Schedule(
        beta_start=config.get("beta_start", default.beta_start),
        beta_end=config.get("beta_end", default.beta_end),
        timesteps=config.get("num_train_timesteps", default.timesteps),
    )
