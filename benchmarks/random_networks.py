"""Networks of SD1.5's and SDXL's size with random weights, made where they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from examples.random_checkpoint import SIZES, meta_networks, scaled
from networks import Adapter, Attention, NetworkExport, ShapeCase
from networks.precision import lowered
from networks.stored import write_network
from pipelines.descriptor import Precision
from runners.torch_session import TorchSession, TorchSettings

_CONTROLNET: Any = ControlNetModel  # diffusers' classes are not typed


@cache
def configs(size: str) -> dict[str, dict[str, Any]]:
    """Of a size's networks, by their part, with a ControlNet's."""
    networks = meta_networks(SIZES[size])
    control = _CONTROLNET.from_unet(networks["unet"][0], load_weights_from_unet=False)
    found = {part: dict(config) for part, (_, config) in networks.items()}
    return {**found, "controlnet": dict(control.config)}


def random_module(
    network: NetworkExport,
    device: torch.device,
    precision: Precision,
    attention: Attention | None = None,
) -> nn.Module:
    """A network with weights of no meaning, made on the device.

    Args:
        attention: the form that it is exported with; None: as it runs in torch.
    """
    return _random(network, device, precision, attention)[1]


def write_random(
    network: NetworkExport, folder: Path, device: torch.device, precision: Precision
) -> None:
    """Writes a network with such weights as the torch backend reads it."""
    module, _ = _random(network, device, precision)
    write_network(network, module, folder, precision=precision)


def _random(
    network: NetworkExport,
    device: torch.device,
    precision: Precision,
    attention: Attention | None = None,
) -> tuple[Adapter, nn.Module]:
    """The module, and the same with its types cast."""
    module = network.skeleton()
    if attention is not None:
        network.prepare(module, attention)
    runnable = lowered(network, module, precision, ())
    runnable.to_empty(device=device).eval().requires_grad_(False)
    for name, weights in module.named_parameters():
        weights.copy_(scaled(name, torch.randn(weights.shape, device=device)))
    network.complete(module)
    return module, runnable


def row_flops(network: NetworkExport, side: int) -> int:
    """Operations of a run of one row, two to a multiply-add; ``side`` as in :func:`case_of`."""
    module = network.skeleton()
    network.complete(module)
    example = network.example(case_of(network, 1, side), torch.Generator())
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*(each.to("meta") for each in example.values()))
    return int(counter.get_total_flops())


def case_of(network: NetworkExport, rows: int, side: int) -> ShapeCase:
    """Square pictures, ``side`` latent cells (the encoder's pixels) wide, and one chunk of text."""
    usual = {axis.name: axis.opt for axis in network.axes}
    return ShapeCase(rows, usual | network.sizes_at(side))


@dataclass(frozen=True)
class Chain:
    """Networks that run one after another, each on the inputs and what the ones before it said."""

    networks: Sequence[tuple[NetworkExport, nn.Module]]
    device: torch.device

    @classmethod
    def random(
        cls, networks: Sequence[NetworkExport], device: torch.device, precision: Precision
    ) -> Chain:
        """With random weights."""
        return cls([(each, random_module(each, device, precision)) for each in networks], device)

    def runner(self, rows: int, side: int, settings: TorchSettings) -> Callable[[], None]:
        """A function that runs them all once; sides as in :func:`case_of`."""
        generator = torch.Generator().manual_seed(0)
        inputs: dict[str, torch.Tensor] = {}
        sessions = []
        for network, module in self.networks:
            example = network.example(case_of(network, rows, side), generator)
            inputs |= {name: each.to(self.device) for name, each in example.items()}
            sessions.append(TorchSession(network, module, self.device, settings))

        def run() -> None:
            told = inputs
            for session in sessions:
                told = {**told, **session.run(told)}

        return run

    def row_flops(self, side: int) -> int:
        """Operations of a run of one row."""
        return sum(row_flops(network, side) for network, _ in self.networks)
