"""The source of one build: the checkpoint, its networks and ControlNets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_engines.checkpoint import Checkpoint
from build_engines.controlnets import controlnet_files, open_controlnets
from build_engines.errors import CheckpointError, OptionError
from build_engines.families import SD2, Family, detect
from build_engines.options import PredictionType
from build_engines.triton_config import ensemble_name
from networks import ClipTextEncoder, ControlNet, NetworkExport, SdxlTextEncoder2, Unet
from networks.diffusion import ADDITION_INPUT, ADDITION_SIZE
from pipelines.descriptor import EdmSchedule, NoiseSchedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcePipeline:
    """A checkpoint of a known family with the pipeline's name."""

    name: str
    checkpoint: Checkpoint
    family: Family
    schedule: NoiseSchedule
    prediction: PredictionType
    clip_skip: int
    """The text encoders' layer that is used, counted from the last one."""
    networks: Sequence[NetworkExport]
    unet: Unet
    """The one among the networks."""
    text_encoders: Sequence[ClipTextEncoder]
    """Those among the networks, in the order in which their hidden states are joined."""
    controlnets: Sequence[tuple[ControlNet, Checkpoint]]
    """Each with the folder or file of its weights."""
    sources: Mapping[str, Path]
    """The source files by names that do not depend on their location."""

    @property
    def exports(self) -> list[tuple[NetworkExport, Checkpoint]]:
        """All exported networks, each with the checkpoint of its weights."""
        return [*((each, self.checkpoint) for each in self.networks), *self.controlnets]

    @property
    def ensembles(self) -> dict[str, ControlNet]:
        """Triton model → its ControlNet, which runs before the UNet."""
        return {ensemble_name(self.unet, each, self.name): each for each, _ in self.controlnets}

    @property
    def models(self) -> list[str]:
        """The names of all built Triton models."""
        return [*(each.model_name(self.name) for each, _ in self.exports), *self.ensembles]


def open_pipeline(
    name: str,
    checkpoint: Checkpoint,
    controlnets: Mapping[str, Path],
    prediction: PredictionType | None = None,
    clip_skip: int | None = None,
) -> SourcePipeline:
    """Reads the configurations and vocabularies; no weights yet.

    Args:
        controlnets: the name of each ControlNet → its folder or file.
        prediction: of the UNet; None: the checkpoint's.
        clip_skip: the text encoders' layer, counted from the last one; None: the family's own.

    Raises:
        CheckpointError: a part is missing, of an unknown kind, or does not fit the others.
        OptionError: the text encoders have no such layer, or the noise no such prediction.
    """
    family = detect(checkpoint)
    networks = family.open_networks(checkpoint, bool(controlnets), clip_skip)
    unet = next(each for each in networks if isinstance(each, Unet))
    text_encoders = [each for each in networks if isinstance(each, ClipTextEncoder)]
    _check_widths(checkpoint, unet, text_encoders)
    _check_vocabularies(checkpoint, text_encoders)
    schedule = checkpoint.schedule()
    predicted = prediction or _prediction(checkpoint, family)
    if isinstance(schedule, EdmSchedule) and predicted != "v_prediction":
        raise OptionError(
            f"prediction: {predicted!r} with EDM's noise levels, which the checkpoint has; "
            "allowed: v_prediction"
        )
    return SourcePipeline(
        name=name,
        checkpoint=checkpoint,
        family=family,
        schedule=schedule,
        prediction=predicted,
        clip_skip=family.clip_skip if clip_skip is None else clip_skip,
        networks=networks,
        unet=unet,
        text_encoders=text_encoders,
        controlnets=open_controlnets(controlnets, unet),
        sources={**family.source_files(checkpoint), **controlnet_files(controlnets)},
    )


def _prediction(checkpoint: Checkpoint, family: Family) -> PredictionType:
    """The checkpoint's, or epsilon where it declares none."""
    declared = checkpoint.prediction()
    if declared is None and family is SD2:
        log.warning(
            "%s: nothing says what the UNet predicts; it is taken to be epsilon. Checkpoints of "
            "SD 2.x at 768 pixels predict v: --prediction v_prediction, or --prediction epsilon "
            "if that is right",
            checkpoint.root,
        )
    return declared or "epsilon"


def _check_widths(
    checkpoint: Checkpoint, unet: Unet, text_encoders: Sequence[ClipTextEncoder]
) -> None:
    """Compares the widths of the UNet's inputs with those of the text encoders' outputs."""
    expected = {"cross_attention_dim": sum(encoder.width for encoder in text_encoders)}
    for encoder in text_encoders:
        if isinstance(encoder, SdxlTextEncoder2):
            sizes = unet.time_ids * unet.config[ADDITION_SIZE]
            expected[ADDITION_INPUT] = encoder.pooled_width + sizes
    for field, value in expected.items():
        if unet.config.get(field) != value:
            raise CheckpointError(
                f"{checkpoint.root}: unet/config.json has {field} {unet.config.get(field)!r}, "
                f"{value} is what the text encoders give"
                + (f" with {unet.time_ids} sizes" if field == ADDITION_INPUT else "")
            )


def _check_vocabularies(checkpoint: Checkpoint, text_encoders: Sequence[ClipTextEncoder]) -> None:
    """Compares the tokens' ids with the rows of the text encoders' tables."""
    for encoder in text_encoders:
        found, rows = checkpoint.vocabulary(encoder.tokenizer), encoder.config["vocab_size"]
        token, number = max(found.tokens.items(), key=lambda item: item[1])
        if number >= rows:
            raise CheckpointError(
                f"{found.source}: the token {token!r} has the id {number}; {encoder.part} has "
                f"{rows} tokens"
            )
