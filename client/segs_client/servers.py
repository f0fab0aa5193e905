"""The choice of a server for each request.

A request is sent to the server with the least work in flight, by
:func:`~segs_client.work.estimated_work`; among equals, to the one that has done the least. gRPC's
round robin would be fair only for requests of equal cost, and their costs differ by a factor of
1000.

A server that fails is closed for its ``retry_after_s``; without one for half a second, doubled with
each failure in a row; at most 15 s. A closed server gets requests only if all are closed. After
that time, one request first checks that the server is ready; the others are sent elsewhere.
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
"""Time-out of the readiness check of a server that has failed."""
_FIRST_CLOSED_S = 0.5
_MOST_CLOSED_S = 15.0
_MOST_ERRORS = 3
_random = random.Random()  # for the order of servers only


@dataclass(eq=False)
class Server:
    """A client's state of one server.

    Attributes:
        url: host and port.
        index: in the client's list.
        under_way: work of its requests in flight.
        done: total work of its finished requests.
        failures: in a row.
        errors: INTERNAL errors in a row.
        failed_s: time of the last failure on the monotonic clock.
        closed_until: on the same clock.
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
    """The servers of one client; thread-safe.

    Args:
        urls: host and port of each.
        shuffle: orders the servers, so that clients start with different ones.

    Raises:
        InvalidRequest: no address, or one of them twice.
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
        """The best server for a request that is sent inside the ``with``.

        Args:
            work: of the request.
            but: excluded servers; never all.

        Yields:
            The server, and whether its readiness has to be checked first.
        """
        with self._lock:
            now = time.monotonic()
            server = min(
                (each for each in self._servers if each not in but),
                key=lambda each: (each.closed_until > now, round(each.under_way, 6), each.done),
            )
            needs_probe = server.failures > 0 and len(self._servers) > 1
            if needs_probe:
                server.closed_until = max(server.closed_until, now + PROBE_S)
            server.under_way += work
        with self._returning(server, work):
            yield server, needs_probe

    @contextlib.contextmanager
    def streaming(self, url: str, work: float) -> Iterator[None]:
        """Counts a stream's work for its server inside the ``with``, and records its failure."""
        server = next(each for each in self._servers if each.url == url)
        sent_s = time.monotonic()
        with self._lock:
            server.under_way += work
        with self._returning(server, work):
            try:
                yield
            except ServerUnavailable as error:
                self.record_unavailable(server, sent_s, error)
                raise

    @contextlib.contextmanager
    def _returning(self, server: Server, work: float) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                server.under_way -= work

    def __len__(self) -> int:
        return len(self._servers)

    def record_success(self, server: Server, sent_s: float, work: float = 0.0) -> None:
        """Records that a server has answered a request.

        Args:
            server: the server.
            sent_s: when the request was sent, on the monotonic clock. A request sent before the
                last failure does not reopen the server: a stopping server still ends its requests.
            work: of the request.
        """
        with self._lock:
            server.done += work
            server.errors = 0
            if server.failures == 0 or sent_s < server.failed_s:
                return
            server.failures, server.closed_until = 0, 0.0
            # The work that it missed is not made up for: it would get all requests at once.
            others = [each.done for each in self._servers if each.failures == 0 and each != server]
            server.done = max(server.done, min(others, default=0.0))

    def record_error(self, server: Server, sent_s: float, error: SegsError) -> None:
        """Records an error of a request that is not repeated. Several in a row count as the
        server's failure: a server that fails at once always has the least work in flight, and
        would get all requests."""
        with self._lock:
            server.errors += 1
            if server.errors < _MOST_ERRORS:
                return
        self.record_unavailable(server, sent_s, ServerUnavailable(error.message))

    def record_unavailable(self, server: Server, sent_s: float, error: ServerUnavailable) -> None:
        """Records that a server was unavailable.

        Args:
            server: the server.
            sent_s: when the request was sent; all requests in flight count as one failure.
            error: may have a ``retry_after_s``.
        """
        with self._lock:
            now = time.monotonic()
            if sent_s >= server.failed_s:
                server.failures += 1
                server.failed_s = now
            closed_s = error.retry_after_s
            if closed_s is None:
                closed_s = _FIRST_CLOSED_S * 2.0 ** min(server.failures - 1, 5)
            server.closed_until = now + min(closed_s, _MOST_CLOSED_S)
