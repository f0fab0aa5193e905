"""Compiles a checkpoint into the Triton models of one pipeline.

``python -m build_engines CHECKPOINT --name NAME --target onnx --repository DIR``, or
:func:`build`. A further family of checkpoints is a :class:`~build_engines.families.Family` and,
where its networks differ, a class in :mod:`build_engines.networks`.
"""

from build_engines.build import build
from build_engines.errors import BuildError, CheckpointError, VerificationError

__all__ = ["BuildError", "CheckpointError", "VerificationError", "build"]
