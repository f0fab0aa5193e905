"""What can go wrong while a pipeline is built, and the exit code each failure has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class BuildError(Exception):
    """Root of every failure that the user is told about. The message is complete by itself."""

    exit_code = 1


class CheckpointError(BuildError):
    """The checkpoint is incomplete, of another family, or in a format that is refused."""

    exit_code = 3


@contextmanager
def malformed(checkpoint: Path) -> Iterator[None]:
    """Inside, what is wrong with files in ways that nobody has foreseen ends as CheckpointError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{checkpoint}: cannot be read as it is: {told}") from error


class VerificationError(BuildError):
    """An exported network does not compute what the checkpoint's network computes."""

    exit_code = 4


class RefitError(BuildError):
    """An engine's weights cannot be exchanged; a full build is needed."""


class QualityError(BuildError):
    """A quantised network is further from the original than was allowed."""

    exit_code = 5
