"""A pipeline ready to sample with: descriptor, tokenizers and the names of its networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines import Network, PipelineDescriptor, load_all
from sampling.schedule import DiscreteSchedule
from sampling.text import TextEncoder
from sampling.unet import ControlModels, UNet

_GPU_TARGETS = {"tensorrt", "torch"}
"""Those whose networks are on a GPU where there is one."""


@dataclass(frozen=True)
class Pipeline:
    """What a request's programs need of its checkpoint."""

    descriptor: PipelineDescriptor
    schedule: DiscreteSchedule
    text_encoders: tuple[TextEncoder, ...]
    unet: UNet
    controlnets: Mapping[str, ControlModels]

    @classmethod
    def load(cls, descriptor: PipelineDescriptor, folder: Path) -> Pipeline:
        """``folder``: where the descriptor lies; its paths are relative to it."""
        schedule = DiscreteSchedule.of(descriptor.schedule)
        networks = descriptor.networks
        # Two encoders' hidden states are joined: neither's own width is told.
        width = descriptor.context_dim if len(descriptor.text_encoders) == 1 else None
        return cls(
            descriptor,
            schedule,
            tuple(
                TextEncoder.load(networks[spec.role].model, spec, folder, width)
                for spec in descriptor.text_encoders
            ),
            UNet(
                networks["unet"].model,
                descriptor.prediction,
                schedule,
                descriptor.unet_channels,
                descriptor.residuals,
            ),
            {
                name: ControlModels(spec.network.model, spec.unet)
                for name, spec in descriptor.controlnets.items()
            },
        )


def load_pipelines(repositories: Iterable[Path]) -> dict[str, Pipeline]:
    """Every pipeline of some repositories, by name."""
    return {
        name: Pipeline.load(descriptor, folder)
        for name, (descriptor, folder) in load_all(repositories).items()
    }


def device_of(pipelines: Iterable[Pipeline]) -> torch.device:
    """Where latents and all that steps need live: on the GPU, if this process sees one and some
    pipeline's networks may run there."""
    on_gpu = any(pipeline.descriptor.target in _GPU_TARGETS for pipeline in pipelines)
    return torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")


def network_table(pipelines: Iterable[Pipeline]) -> dict[str, Network]:
    """Every Triton model that the engine may call, by name, with its batch limit and outputs."""
    table = {}
    for pipeline in pipelines:
        descriptor = pipeline.descriptor
        unet = descriptor.networks["unet"]
        for network in descriptor.networks.values():
            table[network.model] = network
        for spec in descriptor.controlnets.values():
            table[spec.network.model] = spec.network
            table[spec.unet] = unet.model_copy(update={"model": spec.unet})
    return table
