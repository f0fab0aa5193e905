"""One ONNX network in onnxruntime on the CPU, with numpy arrays as inputs and outputs.

Cores share a batch by its rows: each runs the whole network on one row. Threads that share every
operator instead wait for each other hundreds of times a run, and the intermediate tensors of all
rows are in memory at once.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runners.cores import physical_cores

NamedArrays = dict[str, np.ndarray[Any, Any]]

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LOADING_BYTES = 1 << 20
_RUNNING_BYTES = 32 << 20

_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
"""As Triton's native backend numbers them."""


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session; the defaults are for several processes on few cores.

    The arena and memory patterns are off: they would keep the memory of the largest shape, once
    per network.
    """

    threads: int = 0
    """Threads of the session's pool, the caller included; 0: one per core."""
    by_row: bool = True
    """The first axis of every tensor is the batch's, so that rows can be run one by one."""
    inter_threads: int = 0
    """Threads across operators, if ``parallel``; 0: one per core."""
    parallel: bool = False
    level: int = 0
    """Graph optimisation: −1 basic, 0 all, 1 extended, 2 none."""
    arena: bool = False
    memory_pattern: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SessionSettings:
        """Reads a Triton model config by the parameter names of the native backend.

        Raises:
            ValueError: a parameter is no number, or the level does not exist.
        """
        parameters = config.get("parameters", {})
        given = {name: value["string_value"] for name, value in parameters.items()}
        graph = config.get("optimization", {}).get("graph") or {}
        level = int(graph.get("level", 0))
        if level not in _LEVELS:
            raise ValueError(f"optimization.graph.level {level}: allowed: {sorted(_LEVELS)}")
        return cls(
            threads=int(given.get("intra_op_thread_count", 0)),
            by_row=int(config.get("max_batch_size", 0)) > 0,
            inter_threads=int(given.get("inter_op_thread_count", 0)),
            parallel=int(given.get("execution_mode", 0)) == 1,
            level=level,
            arena=int(given.get("enable_mem_arena", 0)) == 1,
            memory_pattern=int(given.get("enable_mem_pattern", 0)) == 1,
        )


class OnnxSession:
    """A loaded network; thread-safe.

    Args:
        lanes: rows that run at the same time, one per thread of the session's pool; 1: a batch runs
            as a whole.
    """

    def __init__(self, session: ort.InferenceSession, lanes: int = 1) -> None:
        self._session = session
        self._lanes = lanes
        self.input_names: tuple[str, ...] = tuple(node.name for node in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(node.name for node in session.get_outputs())

    def run(self, inputs: NamedArrays) -> NamedArrays:
        """Runs the network on a batch [rows, …]; every output by its name.

        Rows run in waves of one per core. Rows that do not fill a wave share all cores.

        Raises:
            onnxruntime's exceptions, whose text may contain paths and shapes; RuntimeError with the
            same text if another thread ran the row.
        """
        rows = next(iter(inputs.values())).shape[0] if self._lanes > 1 else 0
        last_wave = rows - rows % self._lanes
        if last_wave == 0:
            return self._named(self._session.run(None, inputs))
        results = []
        for start in range(0, last_wave, self._lanes):
            wave = range(start, start + self._lanes)
            results += self._run_wave([_cut(inputs, row, row + 1) for row in wave])
        if last_wave < rows:
            results.append(self._session.run(None, _cut(inputs, last_wave, rows)))
        return self._named([np.concatenate(parts) for parts in zip(*results, strict=True)])

    def _run_wave(self, parts: list[NamedArrays]) -> list[Any]:
        """Runs one part on each thread of the pool, the first on the caller's.

        While all threads are busy, a run inside the pool uses only its own thread; the last one is
        helped by threads that are done.
        """
        others: list[Future[Any]] = [Future() for _ in parts[1:]]
        for part, future in zip(parts[1:], others, strict=True):
            self._session.run_async(None, part, _deliver, future)
        try:
            first = self._session.run(None, parts[0])
        finally:
            wait(others)
        return [first, *(future.result() for future in others)]

    def _named(self, outputs: list[Any]) -> NamedArrays:
        return dict(zip(self.output_names, outputs, strict=True))


def _cut(inputs: NamedArrays, start: int, stop: int) -> NamedArrays:
    return {name: array[start:stop] for name, array in inputs.items()}


def _deliver(outputs: list[Any], future: Future[Any], error: str) -> None:
    if error:
        future.set_exception(RuntimeError(error))
    else:
        future.set_result(outputs)


def open_session(
    model_path: Path | str, threads: int = 0, *, settings: SessionSettings | None = None
) -> OnnxSession:
    """Loads ``model_path`` with the weight files beside it; ``settings`` replace ``threads``."""
    chosen = settings or SessionSettings(threads=threads)
    options = session_options(chosen)
    with freed_memory_returned():
        session = ort.InferenceSession(
            str(model_path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    together = chosen.parallel or not chosen.by_row
    return OnnxSession(session, lanes=1 if together else options.intra_op_num_threads)


def session_options(settings: SessionSettings) -> ort.SessionOptions:
    """The settings as onnxruntime's options."""
    options = ort.SessionOptions()
    # Always an explicit number: by default onnxruntime pins its threads to cores, to the same ones
    # in the process of every network.
    options.intra_op_num_threads = settings.threads or physical_cores()
    options.inter_op_num_threads = settings.inter_threads
    if settings.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = _LEVELS[settings.level]
    options.enable_cpu_mem_arena = settings.arena
    options.enable_mem_pattern = settings.memory_pattern
    # Spinning threads would take the cores from the sampling process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """A context in which freed large blocks are returned to the system at once.

    Loading a network frees weights that were rearranged for the CPU. If glibc keeps those blocks, a
    session of convolutions needs 1.7 times the memory of its weights. Afterwards glibc keeps blocks
    of up to 32 MiB again, its upper limit: mapping and clearing memory for every intermediate
    tensor makes small networks up to 2.5 times slower.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LOADING_BYTES)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _RUNNING_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _RUNNING_BYTES)
