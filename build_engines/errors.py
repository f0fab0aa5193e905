"""The errors of a build, each with its exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class BuildError(Exception):
    """Root of the errors that are shown to the user, by their message alone."""

    exit_code = 1


class OptionError(BuildError):
    """An option, or two together, have a value that is not allowed."""

    exit_code = 2


class CheckpointError(BuildError):
    """The checkpoint is incomplete, of an unknown family, or in a refused format."""

    exit_code = 3


@contextmanager
def malformed(checkpoint: Path) -> Iterator[None]:
    """A context that converts unexpected errors of broken files into CheckpointError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{checkpoint}: cannot be read as it is: {reason}") from error


@contextmanager
def errors_of(checkpoint: Path) -> Iterator[None]:
    """A context that names the checkpoint in a CheckpointError of what was read from it."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error


class VerificationError(BuildError):
    """An exported network's results differ from those of the checkpoint's network."""

    exit_code = 4


class RefitError(BuildError):
    """An engine's weights cannot be replaced; a full build is needed."""


class QualityError(BuildError):
    """A quantised network differs from the original by more than allowed."""

    exit_code = 5


def first_names(names: Sequence[str]) -> str:
    """The first three names, and their number."""
    return ", ".join(names[:3]) + (f" … ({len(names)})" if len(names) > 3 else "")
