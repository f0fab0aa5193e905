"""What an engine is built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Shape = tuple[int, ...]
Profiles = Sequence[Mapping[str, tuple[Shape, Shape, Shape]]]
"""For each optimisation profile: input → its least, usual and greatest shape."""

PLAN_FILE = "model.plan"
"""Triton's name for an engine."""


@dataclass(frozen=True)
class Job:
    """One engine to build."""

    graph: Path
    """``model.onnx``, its weights beside it; strongly typed: the graph's types are the engine's."""
    plan: Path
    """The file to write."""
    profiles: Profiles
    workspace_bytes: int | None = None
    """Most scratch memory, in which a network that is compiled whole has its activations too; None:
    TensorRT's own limit, the GPU's memory."""
    compute_capabilities: Sequence[str] = ()
    """Of the GPUs to build for, e.g. "8.9", where the library compiles ahead of time, as TensorRT
    for RTX does; empty: the GPU that is here."""
    optimization_level: int = 3
    timing_cache: Path | None = None
    refit: bool = False
    weight_streaming: bool = False
    tf32: bool = True
    """Whether float32 products may be rounded to TF32."""
