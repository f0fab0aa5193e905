"""A pipeline ready to sample with: descriptor, tokenizer and the names of its networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines import PipelineDescriptor, load_all
from sampling.denoiser import UNet
from sampling.schedule import DiscreteSchedule
from sampling.text import TextEncoder


@dataclass(frozen=True)
class Pipeline:
    """What a request's programs need of its checkpoint."""

    descriptor: PipelineDescriptor
    schedule: DiscreteSchedule
    text_encoder: TextEncoder
    unet: UNet

    @classmethod
    def load(cls, descriptor: PipelineDescriptor, folder: Path) -> Pipeline:
        """``folder``: where the descriptor lies; its paths are relative to it."""
        schedule = DiscreteSchedule.of(descriptor.schedule)
        networks = descriptor.networks
        return cls(
            descriptor,
            schedule,
            TextEncoder.load(networks["text_encoder"].model, descriptor.text_encoders[0], folder),
            UNet(networks["unet"].model, descriptor.prediction, schedule),
        )


def load_pipelines(repositories: Iterable[Path]) -> dict[str, Pipeline]:
    """Every pipeline of some repositories, by name."""
    return {
        name: Pipeline.load(descriptor, folder)
        for name, (descriptor, folder) in load_all(repositories).items()
    }
