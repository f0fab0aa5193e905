"""Several servers as one: who gets the next request.

The one with the least work under way gets it, by :func:`~segs_client.work.estimated_work`; among
equals, the one that has done the least so far. gRPC's own policy for several addresses deals out
calls in turn, which is fair only where they cost the same, and theirs differ by a thousand.

A server that fails is closed for a while (as long as it says itself; else half a second, and twice
as long each time in a row; at most 15 s) and gets requests only where all others are closed too.
When its time is over, one request asks whether it is ready, while the others go elsewhere.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from segs_client.errors import InvalidRequest, SegsError, ServerUnavailable

PROBE_S = 2.0
"""How long a server may take to say that it is ready again."""
_FIRST_CLOSED_S = 0.5
_MOST_CLOSED_S = 15.0
_MOST_ERRORS = 3
_random = random.Random()  # of the order of servers alone


@dataclass(eq=False)
class Server:
    """What a client knows of one server.

    Attributes:
        url: host and port.
        index: its place in the client's list.
        under_way: work of the requests that it has.
        done: work that it has done in all.
        failures: in a row.
        errors: INTERNAL ones, in a row.
        failed_s: when it failed last, on the monotonic clock.
        closed_until: on the same.
    """

    url: str
    index: int
    under_way: float = 0.0
    done: float = 0.0
    failures: int = 0
    errors: int = 0
    failed_s: float = 0.0
    closed_until: float = 0.0


class Servers:
    """The servers of one client; safe to share between threads.

    Args:
        urls: host and port of each.
        shuffle: brings those that are equal into an order, so that not all of many clients begin
            with the same one.

    Raises:
        InvalidRequest: none, or one of them twice.
    """

    def __init__(
        self, urls: str | Sequence[str], shuffle: Callable[[list[Server]], None] = _random.shuffle
    ) -> None:
        self.urls = (urls,) if isinstance(urls, str) else tuple(urls)
        if not all(self.urls) or not self.urls or len(set(self.urls)) != len(self.urls):
            allowed = "host:port, or several different ones"
            raise InvalidRequest(
                f"url: no addresses (got {urls!r}); allowed: {allowed}",
                field="url",
                value=repr(urls),
                allowed=allowed,
            )
        self._servers = [Server(url, index) for index, url in enumerate(self.urls)]
        shuffle(self._servers)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def chosen(self, work: float, but: Collection[Server]) -> Iterator[tuple[Server, bool]]:
        """The best server for a request that is sent inside of the ``with``.

        Args:
            work: of the request.
            but: those that it was sent to already; never all.

        Yields:
            The server, and whether it has to be asked first whether it is ready.
        """
        with self._lock:
            now = time.monotonic()
            server = min(
                (each for each in self._servers if each not in but),
                key=lambda each: (each.closed_until > now, round(each.under_way, 6), each.done),
            )
            is_doubtful = server.failures > 0 and len(self._servers) > 1
            if is_doubtful:
                server.closed_until = max(server.closed_until, now + PROBE_S)
            server.under_way += work
        with self._giving_back(server, work):
            yield server, is_doubtful

    @contextlib.contextmanager
    def held(self, url: str, work: float) -> Iterator[None]:
        """A stream's server while the stream goes on; what becomes of it is noted."""
        server = next(each for each in self._servers if each.url == url)
        sent_s = time.monotonic()
        with self._lock:
            server.under_way += work
        with self._giving_back(server, work):
            try:
                yield
            except ServerUnavailable as error:
                self.fails(server, sent_s, error)
                raise

    @contextlib.contextmanager
    def _giving_back(self, server: Server, work: float) -> Iterator[None]:
        """At the end the server has so much less under way."""
        try:
            yield
        finally:
            with self._lock:
                server.under_way -= work

    def __len__(self) -> int:
        return len(self._servers)

    def works(self, server: Server, sent_s: float, work: float = 0.0) -> None:
        """A server has answered a request.

        Args:
            server: who has.
            sent_s: when it was asked, by the monotonic clock. What was sent before it failed tells
                nothing: one that is being stopped still ends what it has.
            work: that it has done.
        """
        with self._lock:
            server.done += work
            server.errors = 0
            if server.failures == 0 or sent_s < server.failed_s:
                return
            server.failures, server.closed_until = 0, 0.0
            # What it missed is not made up for: that would send it all requests at once.
            others = [each.done for each in self._servers if each.failures == 0 and each != server]
            server.done = max(server.done, min(others, default=0.0))

    def errs(self, server: Server, sent_s: float, error: SegsError) -> None:
        """A server has failed at a request that is not to be repeated. It may be the request's
        fault; if there are several in a row, it is taken for the server's: one that fails at once
        has always the least work under way, and would get all requests."""
        with self._lock:
            server.errors += 1
            if server.errors < _MOST_ERRORS:
                return
        self.fails(server, sent_s, ServerUnavailable(error.message))

    def fails(self, server: Server, sent_s: float, error: ServerUnavailable) -> None:
        """A server has not answered a request.

        Args:
            server: who has not.
            sent_s: when it was asked; all that it had when it failed count as one failure.
            error: may say when it will.
        """
        with self._lock:
            now = time.monotonic()
            if sent_s >= server.failed_s:
                server.failures += 1
                server.failed_s = now
            said_s = error.retry_after_s
            if said_s is None:
                said_s = _FIRST_CLOSED_S * 2.0 ** min(server.failures - 1, 5)
            server.closed_until = now + min(said_s, _MOST_CLOSED_S)
