"""Clients that never stop asking, and what they got."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import numpy as np

from segs_client import Client, SegsError
from segs_client.arrays import ByteArray
from segs_client.boxes import Box
from segs_client.retries import Retries, Retry

PIPELINE = "sd15"
REQUESTS = 12
"""Different ones; each is sent again and again, so that its picture is known."""
_SIDE_PX = 128
_BOX_PX = 48
_SAMPLED_PX = 64
_STEPS = (4, 8, 12, 24)
_SEGS = (1, 2, 4)
_TIMEOUT_S = 120.0
_MOST_DIFFERENCE = 2
"""Grey levels between a request's picture alone and among others."""


@dataclass(frozen=True)
class Ask:
    """One request; the ``number`` decides all of it."""

    number: int

    @property
    def steps(self) -> int:
        return _STEPS[self.number % len(_STEPS)]

    @property
    def segs(self) -> int:
        return _SEGS[self.number // len(_STEPS) % len(_SEGS)]

    @property
    def rows(self) -> int:
        """Of the UNet, in all steps: the request's work."""
        return 2 * self.steps * self.segs

    def send(self, client: Client) -> ByteArray:
        """The picture that comes back [height, width, 3].

        Raises:
            SegsError: none does, or a SEG of it failed.
        """
        result = client.detail(
            _picture(),
            self._boxes(),
            prompt=f"a face, {self.number}",
            seed=self.number,
            steps=self.steps,
            crop_factor=1.0,
            guide_size=_SAMPLED_PX,
            max_size=_SAMPLED_PX,
        )
        if result.failed:
            raise SegsError(f"{len(result.failed)} SEGs failed")
        return np.asarray(result.image)

    def _boxes(self) -> list[Box]:
        corners = np.random.default_rng(self.number).integers(0, _SIDE_PX - _BOX_PX, (self.segs, 2))
        return [(int(x), int(y), int(x) + _BOX_PX, int(y) + _BOX_PX) for x, y in corners]


@dataclass(frozen=True)
class Answer:
    """What became of one request; times on the monotonic clock.

    ``engine`` is the place of the picture among those that engines make of it; None: it is none of
    them, or there is none.
    """

    ask: Ask
    start_s: float
    end_s: float
    engine: int | None = None
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


class Load:
    """Clients in threads, each with its next request as soon as it has an answer; a context
    manager.

    Args:
        urls: the addresses that every client knows.
        right: for each engine, the picture of every request.
    """

    def __init__(
        self, urls: Sequence[str], clients: int, right: Sequence[Sequence[ByteArray]]
    ) -> None:
        self.answers: list[Answer] = []
        self.retries: list[Retry] = []
        """By the clients themselves."""
        self._urls = urls
        self._right = right
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._clients = clients

    def __enter__(self) -> Load:
        self._futures = [self._pool.submit(self._ask, index) for index in range(self._clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()

    def _ask(self, index: int) -> None:
        order = np.random.default_rng(index)
        with open_client(self._urls, self.retries.append) as client:
            while not self._over.is_set():
                self.answers.append(self._one(client, Ask(int(order.integers(REQUESTS)))))

    def _one(self, client: Client, ask: Ask) -> Answer:
        start_s = time.monotonic()
        try:
            picture = ask.send(client)
        except SegsError as error:
            return Answer(ask, start_s, time.monotonic(), error=f"{error.code}: {error}")
        end_s = time.monotonic()
        engine = engine_of(picture, [right[ask.number] for right in self._right])
        return Answer(ask, start_s, end_s, engine, "" if engine is not None else "wrong picture")


def open_client(urls: Sequence[str], on_retry: Callable[[Retry], None] | None = None) -> Client:
    """A client of these addresses, between which it balances."""
    retries = Retries(on_retry=on_retry)
    return Client(urls, pipeline=PIPELINE, timeout_s=_TIMEOUT_S, retries=retries)


def pictures(url: str, together: int = 4) -> list[ByteArray]:
    """Every request's picture from a server without other requests."""
    with ExitStack() as stack:
        client = stack.enter_context(open_client([url]))
        pool = stack.enter_context(ThreadPoolExecutor(together))
        return list(pool.map(lambda number: Ask(number).send(client), range(REQUESTS)))


def engine_of(picture: ByteArray, right: Sequence[ByteArray]) -> int | None:
    """The place of a picture among what engines make of its request; None: it is not there."""
    for index, expected in enumerate(right):
        if picture.shape == expected.shape:
            difference = np.abs(picture.astype(np.int16) - expected)
            if int(difference.max()) <= _MOST_DIFFERENCE:
                return index
    return None


@cache
def _picture() -> ByteArray:
    shape = (_SIDE_PX, _SIDE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
