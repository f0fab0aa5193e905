"""Running programs of the step engine, and the calls that they wait for."""

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
    """A running program."""

    program: Program[T]
    requester: Requester
    done: asyncio.Future[T]
    batch_listener: BatchListener | None = None
    check: Callable[[], None] | None = None
    """Checks that the last rows sent to the program are finite."""
    waiting: WaitingCall | None = None
    """The call that the program waits for."""

    def send(self, part: CallOutputs | None) -> NetworkCall:
        """Sends the outputs of the last call (None: starts the program); returns the next call.

        Raises:
            StopIteration: the program has ended; its value is the result.
            NotFiniteError: the rows sent before are not finite.
            Exception: raised by the program.
        """
        self.waiting = None
        if part is None:
            return next(self.program)
        self._check()
        self.check = part.check
        return self.program.send(part.outputs)

    def end(self, result: T) -> None:
        """Sets the result, or fails if the last rows are not finite."""
        try:
            self._check()
        except Exception as error:
            self.fail(error)
        else:
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        """Ends the program with an error, unless it has ended already."""
        if not self.done.done():
            self.done.set_exception(error)
        self.close()

    def close(self) -> None:
        """Closes the generator, so that it cleans up."""
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
    queued_ns: int = 0
    """Nanoseconds since 1970; 0 without a batch listener."""

    @property
    def requester(self) -> Requester:
        return self.live.requester


def group_key(call: NetworkCall) -> GroupKey:
    """The key of the calls that can share a batch: network, shapes and types."""
    shapes = tuple(
        (name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(call.inputs.items())
    )
    return call.network, shapes
