"""Compiles a checkpoint into the Triton models of one pipeline.

``python -m build_engines CHECKPOINT --name NAME --target onnx --repository DIR``, or
:func:`build`. A further family of checkpoints is a :class:`~build_engines.families.Family` and,
where its networks differ, a class in :mod:`networks`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from build_engines.errors import BuildError, CheckpointError, VerificationError
from build_engines.options import LoraArgument, TargetOptions
from pipelines.descriptor import PipelineDescriptor

__all__ = ["BuildError", "CheckpointError", "TargetOptions", "VerificationError", "build"]


def build(
    checkpoint: Path,
    name: str,
    repository: Path,
    target: TargetOptions | None = None,
    controlnets: Mapping[str, Path] | None = None,
    *,
    prediction: str | None = None,
    loras: Sequence[LoraArgument] = (),
    embeddings: Mapping[str, Path] | None = None,
    clip_skip: int | None = None,
) -> PipelineDescriptor:
    """Builds a pipeline, unless an unchanged build of it is there; see
    :func:`build_engines.builder.build` for arguments and errors."""
    # Imported here: torch and its libraries take seconds, which --help has no use for.
    from build_engines.builder import build as run

    return run(
        *(checkpoint, name, repository, target, controlnets),
        prediction=prediction,
        loras=loras,
        embeddings=embeddings,
        clip_skip=clip_skip,
    )
