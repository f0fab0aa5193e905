"""Clients of a server: so many at once, or arriving at random."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from benchmarks.workload import Kind, Request, picture
from segs_client import Client, Retries, SegsError, ServerError, ServerUnavailable

_TIMEOUT_S = 3000.0
_ONCE = Retries(rounds=0)  # refusals are counted
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Answer:
    """What became of one request; times by ``time.perf_counter``."""

    kind: Kind
    start_s: float
    end_s: float
    error: SegsError | None = None

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s

    @property
    def refused(self) -> bool:
        """Whether the server had too much to do, and said when to come again."""
        return isinstance(self.error, ServerUnavailable) and self.error.retry_after_s is not None


@dataclass(frozen=True)
class Crowd:
    """The answers to one load, all of which came."""

    answers: tuple[Answer, ...]

    @property
    def served(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error is None]

    @property
    def wall_s(self) -> float:
        """From the first request to the last answer."""
        starts = min(answer.start_s for answer in self.answers)
        return max(answer.end_s for answer in self.answers) - starts

    @property
    def segs_per_s(self) -> float:
        return sum(answer.kind.segs for answer in self.served) / self.wall_s

    def percentile_s(self, percent: float) -> float:
        """Of the seconds of the answers that were served."""
        return float(np.percentile([answer.seconds for answer in self.served], percent))


def closed_loop(
    url: str,
    pipeline: str,
    requests: Sequence[Sequence[Request]],
    timeout_s: float = _TIMEOUT_S,
) -> Crowd:
    """One client per row, all starting at once; each sends its next request when it has its answer,
    and the same again where it was refused.

    Args:
        timeout_s: of each request.

    Raises:
        SegsError: a request failed.
    """
    together = threading.Barrier(len(requests))

    def work(own: Sequence[Request]) -> list[Answer]:
        with Client(url, pipeline=pipeline, timeout_s=timeout_s, retries=_ONCE) as client:
            client.is_ready()  # the connection is made before the clock starts
            together.wait()
            return [_insist(client, each) for each in own]

    with ThreadPoolExecutor(len(requests)) as pool:
        answers = [answer for rows in pool.map(work, requests) for answer in rows]
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    return Crowd(tuple(answers))


def open_loop(
    url: str, pipeline: str, requests: Sequence[Request], rate_per_s: float, seed: int = 0
) -> Crowd:
    """Requests that arrive as a Poisson process, whatever became of those before."""
    pauses = np.random.default_rng(seed).exponential(1 / rate_per_s, len(requests))
    with (
        Client(url, pipeline=pipeline, timeout_s=_TIMEOUT_S, retries=_ONCE) as client,
        ThreadPoolExecutor(len(requests)) as pool,
    ):
        client.is_ready()
        begin_s = time.perf_counter()
        waiting = []
        for one, at_s in zip(requests, np.cumsum(pauses), strict=True):
            time.sleep(max(begin_s + at_s - time.perf_counter(), 0))
            waiting.append(pool.submit(send, client, one))
        return Crowd(tuple(each.result() for each in waiting))


def _insist(client: Client, request: Request) -> Answer:
    """Sends one request until it is let in; only that time counts."""
    while (answer := send(client, request)).refused:
        time.sleep(_PAUSE_S)
    return answer


def send(client: Client, request: Request) -> Answer:
    """Sends one request and waits; one of which a SEG failed counts as failed."""
    start_s = time.perf_counter()
    error: SegsError | None = None
    try:
        result = client.detail(picture(), request.boxes, **request.options)
        if result.failed:
            error = ServerError(f"{len(result.failed)} SEGs failed")
    except SegsError as raised:
        error = raised
    return Answer(request.kind, start_s, time.perf_counter(), error)
