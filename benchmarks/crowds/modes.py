"""The crowds, each a few lines."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from benchmarks.crowds import pictures
from benchmarks.crowds.calls import (
    Answer,
    Ask,
    ask_patiently,
    connect,
    follow,
    small_ask,
)
from benchmarks.crowds.crowd import Crowd, Outcome, Target
from benchmarks.crowds.ends import LEFT, OK, REFUSED
from benchmarks.crowds.together import Together

_INVALID = "INVALID_ARGUMENT"


@dataclass(frozen=True)
class Honest(Crowd):
    """All wait for their answers."""

    mode: ClassVar[str] = "honest"


@dataclass(frozen=True)
class Leaver(Crowd):
    """One of them goes away meanwhile; the others may not be harmed."""

    mode: ClassVar[str] = "leaver"
    allowed: ClassVar[frozenset[str]] = frozenset({OK, REFUSED, LEFT})

    def ask(self, target: Target, index: int) -> Ask:
        """The one who leaves has the most to wait for, so that it is under way until then."""
        ask = super().ask(target, index)
        if index == self._leaver:
            return replace(ask, body={**ask.body, "steps": self.steps + 2 * self.spread})
        return ask

    @property
    def _leaver(self) -> int:
        """Not one of the sample."""
        chosen = self.chosen()
        return next((index for index in range(self.callers) if index not in chosen), 0)

    def trouble(self, target: Target, together: Together, outcome: Outcome) -> None:
        self.wait_for_trouble(together)
        if not together.leave(self._leaver):
            outcome.broken.append("the one who was to leave had ended before")


@dataclass(frozen=True)
class Refused(Crowd):
    """Meanwhile another caller sends a wrong request, which is refused at once."""

    mode: ClassVar[str] = "refused"

    def trouble(self, target: Target, together: Together, outcome: Outcome) -> None:
        self.wait_for_trouble(together)
        wrong = small_ask(target.pipeline, f"{self.mode}-wrong", steps=0)
        aside = together.beside(wrong, self.limit_s)
        self.require_amidst(aside, "the wrong request", outcome)
        if aside.end != _INVALID:
            outcome.broken.append(f"the wrong request ended as {aside.end}")


@dataclass(frozen=True)
class Streams(Crowd):
    """Each listens to a stream of its own, over a connection of its own."""

    mode: ClassVar[str] = "streams"

    def meet(self, target: Target) -> Outcome:
        chosen = self.chosen()
        asks = [self.ask(target, index) for index in range(self.callers)]
        asks = [ask.shown() if index in chosen else ask for index, ask in enumerate(asks)]

        def listen(index: int) -> Answer:
            return follow(target.url, asks[index], self.limit_s, keep=index in chosen)

        with ThreadPoolExecutor(self.callers) as pool:
            answers = list(pool.map(listen, range(self.callers)))
        ends = Counter(answer.end for answer in answers)
        return Outcome(ends, {asks[index]: answers[index] for index in chosen})


@dataclass(frozen=True)
class Gone(Crowd):
    """They come one after another, each over a connection that it drops soon, without its answer.
    Whoever comes after them is answered: at once, or when the server has said to come again.

    Args:
        coming_s: in which all of them come.
        stay_s: until each drops its connection.
    """

    mode: ClassVar[str] = "gone"
    allowed: ClassVar[frozenset[str]] = frozenset({LEFT})
    coming_s: float = 10.0
    stay_s: float = 2.0

    def ask(self, target: Target, index: int) -> Ask:
        side_px = 128
        ask = small_ask(
            target.pipeline,
            f"{self.mode}-{index}",
            steps=self.steps,
            seed=index,
            image={"encoding": "raw", "shape": [side_px, side_px, 3]},
            output={"image": "raw"},
        )
        return replace(ask, picture=pictures.grey(side_px))

    def meet(self, target: Target) -> Outcome:
        opened: deque[tuple[float, Any]] = deque()
        for index in range(self.callers):
            channel, stub = connect(target.url)
            stub.ModelInfer.future(self.ask(target, index).message(), timeout=self.limit_s)
            opened.append((time.monotonic(), channel))
            time.sleep(self.coming_s / self.callers)
            while opened and time.monotonic() - opened[0][0] > self.stay_s:
                opened.popleft()[1].close()
        for _, channel in opened:
            channel.close()
        begun_s = time.monotonic()
        after = ask_patiently(target.url, small_ask(target.pipeline, "after"), self.limit_s)
        outcome = Outcome(Counter({LEFT: self.callers}))
        outcome.notes["next answer, s"] = round(time.monotonic() - begun_s, 2)
        if after.end != OK:
            outcome.broken.append(f"whoever came after them ended as {after.end}")
        return outcome


@dataclass(frozen=True)
class Webp(Crowd):
    """Small files that take long to decode. A tiny request in their midst need not wait for all
    of them."""

    mode: ClassVar[str] = "webp"
    sample: int = 2  # each is 190 MB
    size: tuple[int, int] = (16383, 3900)

    def ask(self, target: Target, index: int) -> Ask:
        ask = small_ask(
            target.pipeline, f"{self.mode}-{index}", seed=index, image={"encoding": "file"}
        )
        return replace(ask, picture=pictures.lossless_webp(*self.size))

    def trouble(self, target: Target, together: Together, outcome: Outcome) -> None:
        self.wait_for_trouble(together)
        aside = together.beside(small_ask(target.pipeline, "tiny"), self.limit_s)
        self.require_amidst(aside, "the tiny request", outcome)
        if aside.end not in (OK, REFUSED):
            outcome.broken.append(f"the tiny request ended as {aside.end}")


@dataclass(frozen=True)
class BadPng(Crowd):
    """Files that take long to be found out as broken."""

    mode: ClassVar[str] = "badpng"
    allowed: ClassVar[frozenset[str]] = frozenset({_INVALID, REFUSED})
    side_px: int = 7900

    def ask(self, target: Target, index: int) -> Ask:
        ask = small_ask(target.pipeline, f"{self.mode}-{index}", image={"encoding": "file"})
        return replace(ask, picture=pictures.bad_png(self.side_px))


@dataclass(frozen=True)
class Photos(Crowd):
    """Photographs as large as they may be, and PNG back.

    Args:
        box: of the SEG in each.
    """

    mode: ClassVar[str] = "photos"
    sample: int = 2
    size: tuple[int, int] = (8600, 7000)
    box: tuple[int, int, int, int] = (100, 100, 300, 300)

    def ask(self, target: Target, index: int) -> Ask:
        ask = small_ask(
            target.pipeline,
            f"{self.mode}-{index}",
            seed=index,
            image={"encoding": "file"},
            segs={"items": [{"bbox": self.box}]},
            output={"image": "png"},
        )
        return replace(ask, picture=pictures.photograph(*self.size))


FULL: Sequence[Crowd] = (
    Honest(64),
    Honest(256),
    Honest(1000, steps=2),
    Streams(300),
    Leaver(40),
    Leaver(300),
    Refused(40),
    Refused(300),
    Gone(800),
    Gone(800),
    Webp(30),
    BadPng(120),
    Photos(12),
)
SHORT: Sequence[Crowd] = (
    Honest(48, steps=2, spread=8),
    Streams(40, steps=2, spread=8),
    Leaver(48, steps=60, spread=4, trouble_s=0.5),
    Refused(48, steps=60, spread=4, trouble_s=0.5),
    Gone(100, coming_s=2.0, stay_s=0.3),
    Webp(3, size=(16383, 1000), trouble_s=0.1),
    BadPng(12, side_px=2000),
    Photos(2, size=(1200, 900), box=(100, 100, 132, 132)),
)
"""Seconds each."""
MODES = tuple(dict.fromkeys(crowd.mode for crowd in FULL))
