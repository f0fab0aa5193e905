"""The common parts of exported networks: tensors, axes, profiles, batch limits, module, examples.

The ONNX export, the check against torch and the Triton configuration are all generated from
these classes, so they cannot disagree on a name, a dtype or an axis.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import nn

from pipelines.descriptor import BatchBox

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
class TensorSpec:
    """A tensor of the network. ``dims`` are without the batch; a string names a dynamic axis."""

    name: str
    dtype: DType
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Space:
    """The range of one profile of an engine: up to ``rows`` rows, sides of the first input up to
    ``side``."""

    rows: int
    side: int


@dataclass(frozen=True)
class Profile:
    """An optimisation profile: least, usual and greatest rows, and size of every dynamic axis."""

    rows: tuple[int, int, int]
    sizes: Mapping[str, tuple[int, int, int]]

    def shapes(
        self, tensor: TensorSpec
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """A tensor's least, usual and greatest shape, with the batch."""
        least, usual, most = (
            (self.rows[i], *(self.sizes[d][i] if isinstance(d, str) else d for d in tensor.dims))
            for i in range(3)
        )
        return least, usual, most


@dataclass(frozen=True)
class BatchLimits:
    """The bounds of one batch, as in :class:`pipelines.descriptor.Network`."""

    max_batch: int
    max_batch_elements: int | None
    boxes: tuple[BatchBox, ...] = ()


class Attention(Protocol):
    """The form that attention is exported in."""

    @property
    def domains(self) -> Mapping[str, int]:
        """Further operator sets with their versions."""

    def use_in_diffusers(self, model: Any) -> None:
        """Switches a diffusers model, in place."""

    def use_in_clip(self, encoder: Any) -> None:
        """Switches a CLIP text encoder, in place."""


@dataclass(frozen=True)
class ShapeCase:
    """A shape that the export is checked at: rows, and a size for each dynamic axis."""

    rows: int
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        return " ".join([f"batch={self.rows}", *(f"{k}={v}" for k, v in self.sizes.items())])


class Adapter(nn.Module):
    """A library's model with the inputs and outputs of its Triton model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model  # the libraries' classes are not typed


class NetworkExport(ABC):
    """One exported network of a pipeline."""

    role: str
    """The suffix of its Triton model's name."""
    part: ClassVar[str]
    """The checkpoint's folder with its weights and config.json."""
    max_batch: ClassVar[int]
    max_batch_area: ClassVar[int | None] = None
    """Most pixels or latent cells of the first input in one batch: bounds the memory of the
    activations, which grows with them. None: no bound but the rows."""
    axes: tuple[Axis, ...] = ()
    """Dynamic axes of the inputs, the batch aside."""
    spaces: ClassVar[Mapping[int, tuple[Space, ...]]] = {}
    """Profiles of a compiled engine, by the least GPU memory in GB; a side is that of the first
    input's last two axes."""
    usual_side: int = 1
    """Side of the first input that engines are tuned for."""
    exact_inputs: ClassVar[frozenset[str]] = frozenset()
    """Inputs that stay FP32 in a network of lower precision."""
    exact_in_bf16: ClassVar[bool] = False
    """It stays in float32 where a CPU runs the pipeline in bfloat16: it takes a small part of the
    time, and its error goes into every step."""
    checked_sizes: tuple[Mapping[str, int], ...] = ({},)
    """Sizes of the axes for the comparison of the export with torch, beside the profile's least."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.rewrite: Callable[[Path], None] | None = None
        """Changes the exported and checked graph in place (quantisation); None: no change."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Input tensors, in the order of the module's arguments."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Output tensors."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The class's arguments beside the configuration, as JSON values."""
        return {}

    @abstractmethod
    def skeleton(self) -> Adapter:
        """The network in float32 without weights, on torch's meta device; its arguments are
        :attr:`inputs`."""

    def complete(self, module: Adapter) -> None:  # noqa: B027 - most have nothing else
        """Creates the non-weight buffers of a skeleton after its weights are loaded."""

    def current_name(self, name: str) -> str | None:
        """The name in the library's model of a checkpoint's tensor; None if it is not used."""
        return name

    @abstractmethod
    def prepare(self, module: Adapter, attention: Attention) -> None:
        """Changes a loaded module in place into the form that is traced for export."""

    def sensitive(self, module: Adapter) -> Sequence[nn.Module]:
        """The module's blocks that may overflow in half precision, and then stay in float32."""
        return ()

    def sizes_at(self, side: int) -> dict[str, int]:
        """Sizes of the axes for a first input of ``side`` × ``side``."""
        return {}

    @property
    def warm_up_sizes(self) -> dict[str, int]:
        """Sizes of the axes for a first run. Sides are four times the least: OpenVINO 2026.4
        compiles attention at its first run, and if that is of a single token and in bfloat16,
        later runs of more give NaN."""
        least = {axis.name: axis.min for axis in self.axes}
        sides = [least[dim] for dim in self.inputs[0].dims if isinstance(dim, str)]
        return least | self.sizes_at(4 * max(sides)) if sides else least

    @property
    def max_batch_elements(self) -> int | None:
        """:attr:`max_batch_area` in elements of the first input."""
        if self.max_batch_area is None:
            return None
        channels = self.inputs[0].dims[0]
        return self.max_batch_area * int(channels)

    def limits(self, memory_gb: float | None) -> BatchLimits:
        """The bounds of one batch; ``memory_gb`` is the GPU's, None for a CPU."""
        if memory_gb is None or not self.spaces:
            return BatchLimits(self.max_batch, self.max_batch_elements)
        first = self.inputs[0].dims
        boxes = tuple(
            BatchBox(rows=space.rows, shape=(int(first[0]), space.side, space.side))
            for space in self.space(memory_gb)
        )
        return BatchLimits(max(box.rows for box in boxes), None, boxes)

    def space(self, memory_gb: float) -> tuple[Space, ...]:
        """The ranges of an engine for a GPU with this memory."""
        fitting = [least for least in self.spaces if least <= memory_gb]
        if not self.spaces:
            return ()
        return self.spaces[max(fitting, default=min(self.spaces))]

    def profiles(self, memory_gb: float) -> tuple[Profile, ...]:
        """The optimisation profiles of an engine for a GPU with this memory."""
        if not self.axes:
            rows = (1, max(1, self.max_batch // 2), self.max_batch)
            return (Profile(rows, {}),)
        return tuple(self._profile(space) for space in self.space(memory_gb))

    def _profile(self, space: Space) -> Profile:
        usual = self.sizes_at(min(space.side, self.usual_side))
        most = self.sizes_at(space.side)
        sizes = {axis.name: axis.sizes for axis in self.axes}
        for axis in self.axes:
            if axis.name in most:
                sizes[axis.name] = axis.min, usual[axis.name], most[axis.name]
        return Profile((1, max(1, space.rows // 2), space.rows), sizes)

    def model_name(self, pipeline: str) -> str:
        """The Triton model's name."""
        return f"{pipeline}_{self.role}"

    def cases(self) -> list[ShapeCase]:
        """The shapes to check: the profile's least, then each of :attr:`checked_sizes` with 1
        and with 3 rows."""
        least = ShapeCase(1, {axis.name: axis.min for axis in self.axes})
        rest = [ShapeCase(rows, sizes) for rows in (1, 3) for sizes in self.checked_sizes]
        return [least, *rest] if self.axes else rest

    def example(self, case: ShapeCase, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Realistic inputs of a shape, by name."""
        return {
            tensor.name: self.fill(tensor, self._shape(tensor, case), generator)
            for tensor in self.inputs
        }

    def fill(
        self, tensor: TensorSpec, shape: tuple[int, ...], generator: torch.Generator
    ) -> torch.Tensor:
        """Realistic values for one input; by default standard normal."""
        return torch.randn(shape, generator=generator)

    @staticmethod
    def _shape(tensor: TensorSpec, case: ShapeCase) -> tuple[int, ...]:
        dims = (case.sizes[dim] if isinstance(dim, str) else dim for dim in tensor.dims)
        return (case.rows, *dims)
