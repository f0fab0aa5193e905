"""Programs: work that needs networks, written as if it ran alone.

A program is a generator. It yields :class:`NetworkCall` and is sent the outputs; ``yield from``
builds larger programs of smaller ones. Its driver decides where each call runs and which calls
share its batch: the step engine, or :func:`run_alone` in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Tensors = Mapping[str, torch.Tensor]
RowShape = tuple[int | None, ...]
"""Shape of one row of an output; None: any length."""
T = TypeVar("T")


@dataclass(frozen=True)
class NetworkCall:
    """One call of a network.

    ``network`` is the Triton model's name. Every input and output is ``[rows, …]`` with the same
    number of rows. Rows of one call always share a batch. ``outputs`` are the required float32
    outputs with the shape of a row.

    Raises:
        ValueError: the inputs have no rows, or different numbers of rows.
    """

    network: str
    inputs: Tensors
    outputs: Mapping[str, RowShape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = {len(tensor) for tensor in self.inputs.values()}
        if len(rows) != 1 or 0 in rows:
            raise ValueError(f"{self.network}: inputs of {sorted(rows)} rows")

    @property
    def rows(self) -> int:
        return int(self._first.shape[0])

    @property
    def elements(self) -> int:
        """Elements of the first input: the measure of the call's work."""
        return self._first.numel()

    @property
    def row_elements(self) -> int:
        """Elements of one row of the first input."""
        return self.elements // self.rows

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of the first input."""
        return tuple(self._first.shape[1:])

    @property
    def _first(self) -> torch.Tensor:
        return next(iter(self.inputs.values()))


Program = Generator[NetworkCall, Tensors, T]


def run_alone(program: Program[T], networks: Callable[[NetworkCall], Tensors]) -> T:
    """Drives one program to its end, each call in its own batch."""
    try:
        call = next(program)
        while True:
            call = program.send(networks(call))
    except StopIteration as end:
        result: T = end.value
        return result
