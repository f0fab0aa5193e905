"""The rows of a batch: joining the inputs of its calls, checking and splitting its outputs."""

from __future__ import annotations

import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from sampling.faults import MalformedAnswerError, NotFiniteError
from sampling.program import NetworkCall, Tensors

_KEPT_GROUPS = 4
"""Groups whose last joined inputs are kept."""


class Stacker:
    """Joins the inputs of a batch's calls by rows.

    A run passes the same tensors (texts, hints) to its network at every step. While the calls of a
    group's batch stay the same, such tensors are joined once and stay in their memory.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, dict[str, tuple[list[torch.Tensor], torch.Tensor]]] = (
            OrderedDict()
        )

    def stack(self, group: Hashable, calls: Sequence[NetworkCall]) -> Tensors:
        """The inputs by name, ``[rows of all calls, …]``."""
        last = self._kept.pop(group, {})
        joined = {}
        for name in calls[0].inputs:
            parts = [call.inputs[name] for call in calls]
            known, tensor = last.get(name, ([], torch.empty(0)))
            if len(known) != len(parts) or any(map(operator.is_not, known, parts)):
                tensor = torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()
            joined[name] = parts, tensor
        self._kept[group] = joined
        if len(self._kept) > _KEPT_GROUPS:
            self._kept.popitem(last=False)
        return {name: tensor for name, (_, tensor) in joined.items()}


def check_shapes(call: NetworkCall, rows: int, outputs: Tensors) -> None:
    """Checks the shapes and types of a network's outputs for ``rows`` rows; reads no values.

    Raises:
        MalformedAnswerError: an output is missing or has another shape or type.
    """
    for name, tensor in outputs.items():
        if tensor.ndim == 0 or len(tensor) != rows:
            raise _malformed(call, name, f"{list(tensor.shape)} for {rows} rows")
    for name, shape in call.outputs.items():
        found = outputs.get(name)
        if found is None:
            raise _malformed(call, name, "missing")
        sizes = tuple(found.shape[1:])
        fits = len(sizes) == len(shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, sizes, strict=True)
        )
        if not fits or found.dtype != torch.float32:
            raise _malformed(call, name, f"{found.dtype} {list(sizes)}, wanted float32 {shape}")


def _malformed(call: NetworkCall, output: str, what: str) -> MalformedAnswerError:
    return MalformedAnswerError(f"{call.network}: output {output!r}: {what}")


class Finite:
    """Checks that rows of a batch's outputs are finite.

    A sum per row and output, which NaN and infinity propagate to, is started on the outputs' device
    and copied to the host without waiting. A check one step later finds it there.
    """

    def __init__(self, network: str, outputs: Tensors) -> None:
        self._network = network
        sums = [
            tensor.reshape(len(tensor), -1).sum(dim=1)
            for tensor in outputs.values()
            if tensor.is_floating_point()
        ]
        total = torch.stack(sums).sum(dim=0) if len(sums) > 1 else sums[0] if sums else None
        self._copied: torch.cuda.Event | None = None
        self._sums = total
        if total is not None:
            self._sums = total.to("cpu", non_blocking=True)
            if total.is_cuda:
                self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._copied.record(torch.cuda.current_stream(total.device))
        self._finite: list[bool] | None = None

    def check(self, start: int, end: int) -> None:
        """
        Raises:
            NotFiniteError: one of these rows is not finite, or so large that its sum is not.
        """
        if self._finite is None:
            if self._copied is not None:
                self._copied.synchronize()
            sums = [] if self._sums is None else self._sums.tolist()
            self._finite = [math.isfinite(each) for each in sums]
        if not all(self._finite[start:end]):
            raise NotFiniteError(f"{self._network}: NaN or infinity in its output")


@dataclass(frozen=True)
class CallOutputs:
    """One call's rows of a batch's outputs. ``check`` raises NotFiniteError if they are not finite;
    it does not keep them in memory."""

    outputs: Tensors
    check: Callable[[], None]


def hand_out(calls: Sequence[NetworkCall], outputs: Tensors) -> Iterator[CallOutputs]:
    """Each call's own rows, in order."""
    finite = Finite(calls[0].network, outputs)
    start = 0
    for call in calls:
        end = start + call.rows
        own = {name: out[start:end] for name, out in outputs.items()}
        yield CallOutputs(own, partial(finite.check, start, end))
        start = end
