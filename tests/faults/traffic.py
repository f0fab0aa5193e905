"""Requests under way while a fault is made, and what came of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from benchmarks.supervised import PIPELINE
from preprocessing.images import encode
from segs_client import Client, Retries, Segs, SegsError
from segs_client.arrays import ByteArray
from tests.conftest import CONTROLNET
from tests.faults.row import allowed_s, require

Ending = Literal["right", "wrong", "retryable", "failed", "late"]

_BOX = (8, 8, 56, 56)
_MOST_DIFFERENCE = 2
"""Grey levels between a request's picture alone and among others."""
_GRACE_S = 2.0
"""That a client on a busy machine may see its own deadline late."""


@dataclass(frozen=True)
class Ask:
    """A request whose picture is known; no two of a test are the same."""

    number: int
    steps: int = 100
    side_px: int = 64
    controlled: bool = False
    timeout_s: float = 180.0
    followed: bool = False
    """By a stream of events."""

    def picture(self, *, plain: bool = False) -> bytes:
        """The PNG that is sent: noise, or one colour."""
        return _file(self.number, self.side_px, plain)

    def send(self, url: str) -> ByteArray:
        """The picture that comes back.

        Raises:
            SegsError: none does.
        """
        options: dict[str, Any] = {}
        if self.controlled:
            options["controlnets"] = [{"name": CONTROLNET, "preprocessor": "canny"}]
        segs = Segs.from_boxes([_BOX], size=(self.side_px, self.side_px))
        once = Retries(rounds=0)  # what the server refuses is to be seen
        with Client(url, pipeline=PIPELINE, timeout_s=self.timeout_s, retries=once) as client:
            options |= {
                "prompt": f"a face, {self.number}",
                "seed": self.number,
                "steps": self.steps,
                "guide_size": 64,
                "max_size": 64,
            }
            if self.followed:
                *_, last = client.stream(self.picture(), segs, **options)
                assert last.result is not None  # else it raised
                return np.asarray(last.result.image)
            return np.asarray(client.detail(self.picture(), segs, **options).image)


LONG = (Ask(1), Ask(2), Ask(3), Ask(4, controlled=True))
"""Some seconds in the step engine."""
FOLLOWED = (Ask(31, followed=True), Ask(32, followed=True), Ask(33, followed=True))
"""The same, as streams."""
SHORT = (Ask(11, 20), Ask(12, 20), Ask(13, 20), Ask(14, 20))
"""Soon at the VAE's decoder."""
LARGE = (Ask(21, 1, 2048), Ask(22, 1, 2048), Ask(23, 1, 2048), Ask(24, 1, 2048))
"""Long in ``prepare`` and ``composite``."""


@cache
def _file(number: int, side_px: int, plain: bool) -> bytes:
    shape = (side_px, side_px, 3)
    pixels = np.full(shape, 128, np.uint8)
    if not plain:
        pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return encode(pixels, "png", 0).tobytes()


@dataclass(frozen=True)
class Outcome:
    """How one request ended."""

    ending: Ending
    seconds: float
    text: str = ""
    retry_after_s: float | None = None


class Traffic:
    """Requests at once, from threads.

    Args:
        right: the picture of each; None where none should come.
    """

    def __init__(self, url: str, asks: Sequence[Ask], right: Sequence[ByteArray | None]) -> None:
        self._pool = ThreadPoolExecutor(len(asks))
        self._futures: list[Future[Outcome]] = [
            self._pool.submit(_ask, url, ask, expected)
            for ask, expected in zip(asks, right, strict=True)
        ]

    @property
    def under_way(self) -> int:
        """How many are not answered."""
        return sum(not future.done() for future in self._futures)

    def outcomes(self) -> list[Outcome]:
        """Waits for all."""
        with self._pool:
            return [future.result() for future in self._futures]


def _ask(url: str, ask: Ask, right: ByteArray | None) -> Outcome:
    begun = time.monotonic()
    ending: Ending
    text, retry_after_s = "", None
    try:
        picture = ask.send(url)
        ending = "right" if _same(picture, right) else "wrong"
    except SegsError as error:
        ending = "retryable" if error.retryable else "failed"
        text = f"{error.code}: {error}"
        retry_after_s = getattr(error, "retry_after_s", None)
    seconds = time.monotonic() - begun
    if seconds > ask.timeout_s + allowed_s(_GRACE_S):
        ending, text = "late", f"{ending} after {seconds:.1f} s {text}"
    return Outcome(ending, seconds, text, retry_after_s)


def _same(picture: ByteArray, right: ByteArray | None) -> bool:
    if right is None or picture.shape != right.shape:
        return False
    return int(np.abs(picture.astype(np.int16) - right).max()) <= _MOST_DIFFERENCE


def require_all_answered(outcomes: Sequence[Outcome], *, retries: bool) -> str:
    """How many got their picture and how many are to ask again, in words.

    Args:
        retries: whether the fault may lose requests, which then get an error to try again.

    Raises:
        PromiseBroken: a request got another error, or one too late, or got another picture.
    """
    allowed = {"right", "retryable"} if retries else {"right"}
    broken = [f"{each.ending}: {each.text}" for each in outcomes if each.ending not in allowed]
    require(not broken, "; ".join(broken))
    counts = Counter(each.ending for each in outcomes)
    found = {"right pictures": counts["right"], "UNAVAILABLE": counts["retryable"]}
    return ", ".join(f"{count} {what}" for what, count in found.items() if count)
