"""Many calls of one answer each under way at once, and the order in which things happen."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from benchmarks.crowds.calls import Answer, Ask, ask_once, connect, of_error, of_response
from benchmarks.crowds.ends import LEFT, NO_ANSWER


@dataclass(frozen=True)
class Aside:
    """Another caller's request in the midst of a crowd.

    ``sent_after`` and ``came_after`` are the crowd's answers that had come by then.
    """

    end: str
    seconds: float
    sent_after: int
    came_after: int


class Together:
    """The calls of a crowd, all over one connection; a context manager that sends them.

    Args:
        url: host:port of gRPC.
        asks: one of each caller.
        limit_s: until a caller gives up.
        kept: numbers of those whose pictures are kept.
    """

    def __init__(
        self, url: str, asks: Sequence[Ask], limit_s: float, kept: Collection[int] = ()
    ) -> None:
        self._url, self._asks, self._limit_s, self._kept = url, asks, limit_s, kept
        self._calls: dict[int, Any] = {}
        self._told = threading.Condition()
        self.answers: dict[int, Answer] = {}

    def __enter__(self) -> Together:
        self._channel, stub = connect(self._url)
        for index, ask in enumerate(self._asks):
            call = stub.ModelInfer.future(ask.message(), timeout=self._limit_s)
            with self._told:
                self._calls[index] = call
            call.add_done_callback(functools.partial(self._ended, index))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def _ended(self, index: int, call: Any) -> None:
        answer = _answer(call, keep=index in self._kept)
        with self._told:
            self._calls.pop(index)  # it holds the answer's bytes
            self.answers[index] = answer
            self._told.notify_all()

    def wait_for(self, count: int, limit_s: float) -> None:
        """Waits until so many answers have come, at most so long."""
        with self._told:
            self._told.wait_for(lambda: len(self.answers) >= count, limit_s)

    def wait(self) -> None:
        """Waits until all have ended, or should have."""
        self.wait_for(len(self._asks), self._limit_s + 5.0)

    def leave(self, index: int) -> bool:
        """One caller goes away; whether there was no answer yet."""
        with self._told:
            call = self._calls.get(index)
        if call is None:
            return False
        call.cancel()  # what it returns says nothing
        return bool(call.cancelled())

    def beside(self, ask: Ask, timeout_s: float) -> Aside:
        """Sends another request over a connection of its own and waits."""
        sent_after, begun_s = len(self.answers), time.monotonic()
        answer = ask_once(self._url, ask, timeout_s)
        return Aside(answer.end, time.monotonic() - begun_s, sent_after, len(self.answers))

    def ends(self) -> Counter[str]:
        """How they have ended."""
        found = Counter(answer.end for answer in list(self.answers.values()))
        missing = len(self._asks) - found.total()
        return found + Counter({NO_ANSWER: missing})


def _answer(call: Any, *, keep: bool) -> Answer:
    if call.cancelled():
        return Answer(LEFT)
    error = call.exception()
    if error is None:
        return of_response(call.result(), keep=keep)
    return of_error(error) if isinstance(error, grpc.RpcError) else Answer(NO_ANSWER)
