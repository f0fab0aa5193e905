"""What one build is made of: the checkpoint, its networks, and the ControlNets that go with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_engines.checkpoint import Checkpoint, DiffusersFolder
from build_engines.controlnets import controlnet_files, open_controlnets
from build_engines.families import Family, detect
from build_engines.networks import ClipTextEncoder, ControlNet, NetworkExport, Unet
from build_engines.schedule import Prediction, read_prediction, read_schedule
from pipelines.descriptor import Schedule


@dataclass(frozen=True)
class Pipeline:
    """A checkpoint that can be built, under the name it gets."""

    name: str
    checkpoint: Checkpoint
    family: Family
    schedule: Schedule
    prediction: Prediction
    networks: Sequence[NetworkExport]
    controlnets: Sequence[tuple[ControlNet, DiffusersFolder]]
    """Each with the folder of its weights."""
    sources: Mapping[str, Path]
    """Every file that goes into the build, by a name that stays the same wherever it lies."""

    @property
    def unet(self) -> Unet:
        """The UNet among the networks."""
        return next(each for each in self.networks if isinstance(each, Unet))

    @property
    def text_encoders(self) -> list[ClipTextEncoder]:
        """The text encoders, in the order in which their hidden states are joined."""
        return [each for each in self.networks if isinstance(each, ClipTextEncoder)]

    @property
    def exports(self) -> list[tuple[NetworkExport, Checkpoint]]:
        """All that is exported, each with the checkpoint that holds its weights."""
        return [*((each, self.checkpoint) for each in self.networks), *self.controlnets]


def open_pipeline(name: str, checkpoint: Checkpoint, controlnets: Mapping[str, Path]) -> Pipeline:
    """Reads the configurations; no weights yet.

    Args:
        controlnets: the name each ControlNet gets → its folder.

    Raises:
        CheckpointError: something is missing, of an unknown kind, or does not fit the rest.
    """
    family = detect(checkpoint)
    networks = family.open_networks(checkpoint, controlled=bool(controlnets))
    unet = next(each for each in networks if isinstance(each, Unet))
    return Pipeline(
        name=name,
        checkpoint=checkpoint,
        family=family,
        schedule=read_schedule(checkpoint),
        prediction=read_prediction(checkpoint),
        networks=networks,
        controlnets=open_controlnets(controlnets, unet),
        sources={**family.source_files(checkpoint), **controlnet_files(controlnets)},
    )
