"""A row of the suite: a fault, the promise, and the function that looks whether it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.supervised import PromiseBroken

if TYPE_CHECKING:
    from tests.faults.bench import Bench

Check = Callable[["Bench"], str]
"""Does the fault and returns what was seen; raises :class:`PromiseBroken`."""


class NotPossible(Exception):  # noqa: N818
    """The fault cannot be made on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Row:
    """One fault."""

    name: str
    fault: str
    """What is done."""
    promise: str
    """What users may rely on."""
    check: Check
    short: bool = False
    """Whether it belongs to the short form, too."""


class Rows:
    """The rows of one subject, in the order in which they are run."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(
        self, name: str, fault: str, promise: str, *, short: bool = False
    ) -> Callable[[Check], Check]:
        """Decorates a row's function."""

        def register(check: Check) -> Check:
            self.rows.append(Row(name, fault, promise, check, short))
            return check

        return register


_patience = 1.0


def set_patience(factor: float) -> None:
    """Multiplies every limit of time: for a test of all else that is promised, on any machine."""
    global _patience
    _patience = factor


def allowed_s(limit_s: float) -> float:
    """The seconds that something promised within ``limit_s`` may take."""
    return limit_s * _patience


def require(kept: bool, broken: str) -> None:
    """
    Raises:
        PromiseBroken: with what was seen instead.
    """
    if not kept:
        raise PromiseBroken(broken)
