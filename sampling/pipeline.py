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
"""Targets whose networks are on a GPU if there is one."""


@dataclass(frozen=True)
class Pipeline:
    """The parts of a checkpoint that a request's programs use."""

    descriptor: PipelineDescriptor
    schedule: DiscreteSchedule
    text_encoders: tuple[TextEncoder, ...]
    unet: UNet
    controlnets: Mapping[str, ControlModels]

    @classmethod
    def load(cls, descriptor: PipelineDescriptor, folder: Path) -> Pipeline:
        """``folder``: the descriptor's folder; its paths are relative to it."""
        schedule = DiscreteSchedule.of(descriptor.schedule)
        networks = descriptor.networks
        # The descriptor has only the joined width of two encoders' hidden states.
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
    """All pipelines of the repositories, by name."""
    return {
        name: Pipeline.load(descriptor, folder)
        for name, (descriptor, folder) in load_all(repositories).items()
    }


def device_of(pipelines: Iterable[Pipeline]) -> torch.device:
    """The device of latents and other tensors of a step: the GPU, if there is one and a pipeline's
    networks may run on it."""
    on_gpu = any(pipeline.descriptor.target in _GPU_TARGETS for pipeline in pipelines)
    return torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")


def network_table(pipelines: Iterable[Pipeline]) -> dict[str, Network]:
    """All Triton models that the engine may call, by name, with batch limits and outputs."""
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
