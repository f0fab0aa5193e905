"""CUDA graphs of a network: one for every shape that is used again.

Launching the thousand kernels of a small batch takes longer than running them. A graph launches
them all at once, but has fixed addresses and so fixed shapes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

BUCKETS = (1, 2, 4, 8, 16)
"""Rows that graphs are captured with; fewer are padded, more run without a graph."""
MOST_GRAPHS = 32
"""Graphs kept; the least recently used is removed first."""
_MOST_SEEN = 1024
_WARM_UPS = 2

log = logging.getLogger(__name__)

TensorList = Sequence[torch.Tensor]
NetworkFunction = Callable[..., TensorList]
"""Input tensors to output tensors; the first axis of each is that of the rows."""
GraphKey = tuple[tuple[int, ...], ...]


class CapturedGraph(Protocol):
    """A captured run."""

    def replay(self, inputs: TensorList) -> TensorList:
        """Outputs for the inputs, which have at most the captured rows; later runs do not change
        them."""


Capture = Callable[[NetworkFunction, TensorList, int], CapturedGraph]
"""Captures a network's run on inputs of these shapes with the given number of rows."""


class GraphCache:
    """A network that is run by a graph from the second use of its inputs' shapes on."""

    def __init__(self, network: NetworkFunction, capture: Capture, most: int = MOST_GRAPHS) -> None:
        self._network = network
        self._capture = capture
        self._most = most
        self._graphs: OrderedDict[GraphKey, CapturedGraph] = OrderedDict()
        self._seen: OrderedDict[GraphKey, bool] = OrderedDict()
        """Shapes without a graph → whether one may be captured."""

    def __call__(self, *inputs: torch.Tensor) -> TensorList:
        rows = next((bucket for bucket in BUCKETS if bucket >= len(inputs[0])), None)
        if rows is None:
            return self._network(*inputs)
        key = tuple((rows, *each.shape[1:]) for each in inputs)
        graph = self._graphs.get(key)
        if graph is None and self._comes_again(key):
            graph = self._captured(key, inputs, rows)
        if graph is None:
            return self._network(*inputs)
        self._graphs.move_to_end(key)
        return graph.replay(inputs)

    def _comes_again(self, key: GraphKey) -> bool:
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        self._seen[key] = True
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)
        return False

    def _captured(self, key: GraphKey, inputs: TensorList, rows: int) -> CapturedGraph | None:
        if len(self._graphs) >= self._most:
            self._graphs.popitem(last=False)
        try:
            graph = self._capture(self._network, inputs, rows)
        except RuntimeError:  # the base of torch's CUDA errors
            log.warning("no graph for the shapes %s, they are run without", key, exc_info=True)
            self._seen[key] = False
            return None
        self._graphs[key] = graph
        del self._seen[key]
        return graph


class CudaCapture:
    """Captures on the current GPU; graphs share one memory pool, since they never run at once."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, network: NetworkFunction, inputs: TensorList, rows: int) -> CapturedGraph:
        return _CudaGraph(network, inputs, rows, self._pool)


class _CudaGraph:
    def __init__(self, network: NetworkFunction, inputs: TensorList, rows: int, pool: Any) -> None:
        self._inputs = [each.new_zeros((rows, *each.shape[1:])) for each in inputs]
        self._fill(inputs)
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose kernels at warm-up
            for _ in range(_WARM_UPS):
                network(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the GPU during the capture.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._outputs = network(*self._inputs)

    def replay(self, inputs: TensorList) -> TensorList:
        """Outputs are copied out of the graph's own memory, which its next run overwrites."""
        self._fill(inputs)
        self._graph.replay()
        rows = len(inputs[0])
        return [each[:rows].clone() for each in self._outputs]

    def _fill(self, inputs: TensorList) -> None:
        for own, given in zip(self._inputs, inputs, strict=True):
            own[: len(given)].copy_(given)
