"""What every exported network has: tensors, axes, profile, batch limit, module, examples.

The ONNX export, the check against torch and the Triton configuration are all generated from
these classes, so they cannot disagree on a name, a dtype or an axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from build_engines.checkpoint import Checkpoint

DType = Literal["FP32", "INT32"]


@dataclass(frozen=True)
class Axis:
    """A dynamic axis and its optimisation profile: least, usual and greatest size."""

    name: str
    min: int
    opt: int
    max: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Least, usual, greatest."""
        return self.min, self.opt, self.max


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network. ``dims`` leave the batch out; a string names a dynamic axis."""

    name: str
    dtype: DType
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Case:
    """A shape that the export is checked at: rows, and a size for each dynamic axis."""

    rows: int
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        return " ".join([f"batch={self.rows}", *(f"{k}={v}" for k, v in self.sizes.items())])


class NetworkExport(ABC):
    """One network of a pipeline, as it is exported."""

    role: str
    """What tells its Triton model from the pipeline's others."""
    part: ClassVar[str]
    """Folder of the checkpoint that holds its weights and config.json."""
    max_batch: ClassVar[int]
    max_batch_area: ClassVar[int | None] = None
    """Most pixels or latent cells of the first input in one batch: bounds the memory of the
    activations, which grows with them. None: no bound but the rows."""
    axes: tuple[Axis, ...] = ()
    """Dynamic axes of the inputs, the batch aside."""
    checked_sizes: tuple[Mapping[str, int], ...] = ({},)
    """Sizes of the axes that the export is compared with torch at, beside the profile's least."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    @property
    @abstractmethod
    def inputs(self) -> tuple[Tensor, ...]:
        """Input tensors, in the order of the module's arguments."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[Tensor, ...]:
        """Output tensors."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint) -> nn.Module:
        """The checkpoint's own network in float32; its arguments are :attr:`inputs`.

        Raises:
            CheckpointError: the weights are missing or do not fit.
        """

    @abstractmethod
    def prepare(self, module: nn.Module) -> None:
        """Changes a loaded module, in place, into the form whose trace is exported."""

    @property
    def max_batch_elements(self) -> int | None:
        """:attr:`max_batch_area` in elements of the first input."""
        if self.max_batch_area is None:
            return None
        channels = self.inputs[0].dims[0]
        return self.max_batch_area * int(channels)

    def model_name(self, pipeline: str) -> str:
        """The Triton model's name."""
        return f"{pipeline}_{self.role}"

    def cases(self) -> list[Case]:
        """The shapes to check: the profile's least, then each of :attr:`checked_sizes` with 1
        and with 3 rows."""
        least = Case(1, {axis.name: axis.min for axis in self.axes})
        rest = [Case(rows, sizes) for rows in (1, 3) for sizes in self.checked_sizes]
        return [least, *rest] if self.axes else rest

    def example(self, case: Case, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Plausible inputs of that shape, by name."""
        return {
            tensor.name: self.fill(tensor, self._shape(tensor, case), generator)
            for tensor in self.inputs
        }

    def fill(
        self, tensor: Tensor, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Plausible values for one input; standard normal unless a network knows better."""
        return torch.randn(shape, generator=generator)

    @staticmethod
    def _shape(tensor: Tensor, case: Case) -> tuple[int, ...]:
        dims = (case.sizes[dim] if isinstance(dim, str) else dim for dim in tensor.dims)
        return (case.rows, *dims)
