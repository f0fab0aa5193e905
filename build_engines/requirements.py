"""The requirements on a checkpoint, and the messages for checkpoints that do not meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError


class Requirement(Protocol):
    """One requirement on a checkpoint."""

    def check(self, checkpoint: Checkpoint) -> None:
        """
        Raises:
            CheckpointError: the checkpoint does not meet it, or a file to decide is missing.
        """


@dataclass(frozen=True)
class Field:
    """The allowed values of a field in a JSON file."""

    file: str
    field: str
    allowed: tuple[object, ...]
    default: object = None
    """Meaning of an absent field."""

    def check(self, checkpoint: Checkpoint) -> None:
        """See :meth:`Requirement.check`."""
        found = checkpoint.json(self.file).get(self.field, self.default)
        if found not in self.allowed:
            raise CheckpointError(
                f"{checkpoint.root}: {self.file} has {self.field} {found!r}, "
                f"{' or '.join(map(repr, self.allowed))} is expected"
            )


@dataclass(frozen=True)
class NoPart:
    """A part that must not exist."""

    part: str

    def check(self, checkpoint: Checkpoint) -> None:
        """See :meth:`Requirement.check`."""
        if checkpoint.has(self.part):
            raise CheckpointError(f"{checkpoint.root}: there is a {self.part}, none is expected")
