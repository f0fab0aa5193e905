"""Programs: work that needs networks, written as if it ran alone.

A program is a generator. It yields :class:`Call` and is sent the outputs; ``yield from`` builds
larger programs of smaller ones. Whoever drives it decides where and with whom in a batch each
call runs: the step engine, or :func:`run_alone` in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

Tensors = Mapping[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One call of a network.

    ``network`` is the Triton model's name. Every input is ``[rows, …]`` with the same number of
    rows; so are the outputs that come back. Rows of one call always share a batch.
    """

    network: str
    inputs: Tensors

    @property
    def rows(self) -> int:
        return int(next(iter(self.inputs.values())).shape[0])


Program = Generator[Call, Tensors, T]


def run_alone(program: Program[T], networks: Callable[[Call], Tensors]) -> T:
    """Drives one program to its end, each call on its own."""
    try:
        call = next(program)
        while True:
            call = program.send(networks(call))
    except StopIteration as end:
        result: T = end.value
        return result
