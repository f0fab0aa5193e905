"""What a checkpoint must be like to be built, and what is said of one that is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from build_engines.checkpoint import Checkpoint
from build_engines.errors import CheckpointError


class Requirement(Protocol):
    """One thing that is asked of a checkpoint."""

    def check(self, checkpoint: Checkpoint) -> None:
        """Passes a checkpoint that has it.

        Raises:
            CheckpointError: it has not; or a file that tells is missing.
        """


@dataclass(frozen=True)
class Field:
    """The values that a field of a JSON file may have."""

    file: str
    field: str
    allowed: tuple[object, ...]
    default: object = None
    """What an absent field means."""

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
    """A part that there must not be."""

    part: str

    def check(self, checkpoint: Checkpoint) -> None:
        """See :meth:`Requirement.check`."""
        if checkpoint.has(self.part):
            raise CheckpointError(f"{checkpoint.root}: there is a {self.part}, none is expected")
