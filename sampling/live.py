"""Programs under way in the step engine, and the calls that they wait for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sampling.policy import Requester
from sampling.program import NetworkCall, Program
from sampling.progress import BatchListener
from sampling.rows import CallOutputs

T = TypeVar("T")
log = logging.getLogger(__name__)

GroupKey = tuple[Any, ...]


@dataclass(eq=False)
class LiveProgram(Generic[T]):
    """A program under way."""

    program: Program[T]
    requester: Requester
    done: asyncio.Future[T]
    batch_listener: BatchListener | None = None
    check: Callable[[], None] | None = None
    """Of the rows that it was sent last, which are not known to be finite yet."""
    waiting: WaitingCall | None = None
    """The call that it waits for."""

    def send(self, part: CallOutputs | None) -> NetworkCall:
        """Its next call, after the answer to its last one (None: starts it).

        Raises:
            StopIteration: it has ended, with its result.
            Exception: whatever it raised; NotFiniteError if what it was sent before is not finite.
        """
        self.waiting = None
        if part is None:
            return next(self.program)
        self._check()
        self.check = part.check
        return self.program.send(part.outputs)

    def end(self, result: T) -> None:
        """Tells the result, if all that it was sent is finite."""
        try:
            self._check()
        except Exception as error:
            self.fail(error)
        else:
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        """Ends it; nothing happens where it has ended."""
        if not self.done.done():
            self.done.set_exception(error)
        self.close()

    def close(self) -> None:
        """Lets the program clean up."""
        try:
            self.program.close()
        except Exception:
            log.exception("a program could not be closed")

    def _check(self) -> None:
        if self.check is not None:
            self.check()


@dataclass(eq=False)
class WaitingCall:
    """A call that a live program is waiting for."""

    live: LiveProgram[Any]
    call: NetworkCall
    group: GroupKey
    arrival: int
    asked_ns: int = 0
    """Since 1970, where there is a batch listener."""

    @property
    def requester(self) -> Requester:
        return self.live.requester


def group_key(call: NetworkCall) -> GroupKey:
    """What calls have to have in common to share a batch: their network and shapes."""
    shapes = tuple(
        (name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(call.inputs.items())
    )
    return call.network, shapes
