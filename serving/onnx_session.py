"""One ONNX network in onnxruntime on the CPU, with numpy arrays in and out."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

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
    """How a network is run; the defaults are for several processes on few cores.

    The arena and memory patterns are off, as they would keep the largest shape's memory for good,
    once per network.
    """

    threads: int = 0
    """Of one operator; 0 means one per core."""
    inter_threads: int = 0
    """Across operators, where ``parallel``; 0 means one per core."""
    parallel: bool = False
    level: int = 0
    """Graph optimisation: −1 basic, 0 all, 1 extended, 2 none."""
    arena: bool = False
    memory_pattern: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SessionSettings:
        """Reads a Triton model config by the parameter names of the native backend.

        Raises:
            ValueError: a parameter is no number, or the level is none of Triton's.
        """
        parameters = config.get("parameters", {})
        given = {name: value["string_value"] for name, value in parameters.items()}
        graph = config.get("optimization", {}).get("graph") or {}
        level = int(graph.get("level", 0))
        if level not in _LEVELS:
            raise ValueError(f"optimization.graph.level {level}: allowed: {sorted(_LEVELS)}")
        return cls(
            threads=int(given.get("intra_op_thread_count", 0)),
            inter_threads=int(given.get("inter_op_thread_count", 0)),
            parallel=int(given.get("execution_mode", 0)) == 1,
            level=level,
            arena=int(given.get("enable_mem_arena", 0)) == 1,
            memory_pattern=int(given.get("enable_mem_pattern", 0)) == 1,
        )


class OnnxSession:
    """A loaded network. Calls from several threads are safe."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.input_names: tuple[str, ...] = tuple(node.name for node in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(node.name for node in session.get_outputs())

    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Runs the network once; every output by its name.

        Raises:
            onnxruntime's own exceptions, whose text may hold paths and shapes.
        """
        return dict(zip(self.output_names, self._session.run(None, inputs), strict=True))


def open_session(
    model_path: Path | str, threads: int = 0, *, settings: SessionSettings | None = None
) -> OnnxSession:
    """Loads ``model_path``; weights in files beside it are found by onnxruntime.

    ``settings``, where given, are used instead of ``threads``.
    """
    chosen = settings or SessionSettings(threads=threads)
    options = ort.SessionOptions()
    options.intra_op_num_threads = chosen.threads
    options.inter_op_num_threads = chosen.inter_threads
    if chosen.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = _LEVELS[chosen.level]
    options.enable_cpu_mem_arena = chosen.arena
    options.enable_mem_pattern = chosen.memory_pattern
    # Waiting threads that spin take the cores from the process that sampling runs in.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    with freed_memory_returned():
        session = ort.InferenceSession(
            str(model_path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    return OnnxSession(session)


@contextlib.contextmanager
def freed_memory_returned() -> Iterator[None]:
    """Within, large blocks go back to the system as soon as they are freed.

    Loading a network frees weights that were rearranged for the CPU; glibc would keep such blocks,
    and a session of convolutions held 1.7 times its weights. With this it is 1.0 times. Afterwards
    glibc keeps blocks of up to 32 MiB again, its own upper limit: to map and clear the memory of
    every intermediate tensor anew made small networks up to 2.5 times slower.
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LOADING_BYTES)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _RUNNING_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _RUNNING_BYTES)
