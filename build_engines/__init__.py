"""Compiles a checkpoint into the Triton models of one pipeline.

``python -m build_engines CHECKPOINT --name NAME --target onnx --repository DIR``, or
:func:`build`. A further family of checkpoints is a :class:`~build_engines.families.Family` and,
where its networks differ, a class in :mod:`networks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from build_engines.errors import BuildError, CheckpointError, VerificationError
from build_engines.options import TargetOptions

if TYPE_CHECKING:
    from build_engines.builder import build

__all__ = ["BuildError", "CheckpointError", "TargetOptions", "VerificationError", "build"]


def __getattr__(name: str) -> Any:
    # Torch and its libraries, which build imports, take seconds; --help does not need them.
    if name == "build":
        from build_engines.builder import build

        return build
    raise AttributeError(name)
