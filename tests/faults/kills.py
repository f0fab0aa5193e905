"""Processes of models killed at random moments under load: is every request answered?

    python -m tests.faults.kills [--count 200] [--victims NAME …] [--report FILE]

Starts ``serving serve`` with the tiny pipeline. Clients ask all the time for pictures that are
known from before, with a deadline; meanwhile one model's process after the other is killed
(SIGKILL) or stopped (SIGSTOP), each soon after probes get 200 again. Every answer
has to be the known picture or an error that says to try again, in time. Returns 1 if one was not,
or the server was not back soon enough.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.supervised import Supervised, serve
from benchmarks.tables import markdown
from examples import scene
from segs_client import Client, Retries, SegsError
from tests.faults.mix import MOST_OFF, PIPELINE
from tests.faults.observe import shared_files
from tests.faults.soak import REPOSITORY

log = logging.getLogger(__name__)

DEADLINE_S = 30.0
"""Of each call; a picture is asked for again until so much has passed since the first call."""
LATE_S = 1.0
"""An answer may come so much after the deadline: the client's own machine is busy too."""
MOST_RECOVERY_S = 10.0
_BACK_S = 120.0
_CLIENTS = 4
_THINK_S = 1.5
"""At most between an answer and the client's next request."""
_CALM_S = 20.0
"""Under load before the first kill, to know what is usual."""
_PAUSE_S = 0.2
"""Before a client asks again."""
_BETWEEN_S = (0.2, 2.0)
"""From the server's being whole again to the next kill."""
_STOPPED = 0.15
"""Share of the victims that are stopped instead of killed."""
_SIZE = (256, 192)
_SCENES = 12
Ending = Literal["picture", "to be tried again", "wrong picture", "other error", "too late"]
_FINE: tuple[Ending, ...] = ("picture", "to be tried again")


@dataclass(frozen=True)
class Request:
    """One of the pictures that are asked for again and again."""

    index: int

    @property
    def with_controlnet(self) -> bool:
        return self.index % 3 == 2

    def send(self, client: Client) -> NDArray[np.int16]:
        """The picture ``[H, W, 3]``.

        Raises:
            SegsError: there is none.
        """
        place = 20 + 8 * self.index
        boxes = [(place, 30 + 20 * seg, place + 40, 70 + 20 * seg) for seg in range(self.segs)]
        chain = [{"name": "controlnet"}] if self.with_controlnet else []
        result = client.detail(
            _picture(),
            boxes,
            prompt=f"a face, number {self.index}",
            timeout_s=DEADLINE_S,
            seed=self.index,
            steps=40 if self.index % 6 == 0 else 4,
            guide_size=64,
            max_size=128,
            controlnets=chain,
            output={"image": "raw"},
        )
        return np.asarray(result.image).astype(np.int16)

    @property
    def segs(self) -> int:
        return 1 + self.index % 2


@dataclass(frozen=True)
class Attempt:
    """One call and what came of it; ``text`` is an error's."""

    request: Request
    begun_s: float
    seconds: float
    ending: Ending
    text: str = ""


@dataclass(frozen=True)
class Wish:
    """One picture, asked for until it came or its deadline passed."""

    attempts: int
    seconds: float
    served: bool


@dataclass(frozen=True)
class Kill:
    """One victim: seconds until a request that needs it and was begun afterwards was answered,
    and until its process was there again and a request begun after that was answered."""

    victim: str
    signal: str
    answered_s: float
    whole_s: float


@dataclass
class Kills:
    """One run."""

    server: Supervised
    attempts: list[Attempt] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    never_back: list[str] = field(default_factory=list)
    calm: tuple[Attempt, ...] = ()
    """Before the first kill."""
    shared: set[str] = field(default_factory=set)
    """Names of all shared memory that the server was seen to use."""
    _known: list[NDArray[np.int16]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self, count: int, victims: Sequence[str], seed: int, note: Callable[[], None]) -> None:
        """Learns the pictures, then kills ``count`` times under load; notes after each."""
        url = self.server.url
        with Client(url, pipeline=PIPELINE) as client:
            self._known = [Request(index).send(client) for index in range(_SCENES)]
        clients = [
            threading.Thread(target=self._ask, args=(url, random.Random(f"{seed} {number}")))
            for number in range(_CLIENTS)
        ]
        for thread in clients:
            thread.start()
        choose = random.Random(seed)
        try:
            time.sleep(_CALM_S)
            self.calm = tuple(self.attempts)
            for _ in range(count):
                time.sleep(choose.uniform(*_BETWEEN_S))
                if not self._kill(choose, victims):
                    break
                note()
        finally:
            self._over.set()
            for thread in clients:
                thread.join()

    def _ask(self, url: str, choose: random.Random) -> None:
        with Client(url, pipeline=PIPELINE, retries=Retries(rounds=0)) as client:
            while not self._over.wait(choose.uniform(0.0, _THINK_S)):
                self._wish(client, Request(choose.randrange(_SCENES)))

    def _wish(self, client: Client, request: Request) -> None:
        """Asks for a picture until it comes."""
        begun_s, attempts = time.monotonic(), 0
        while time.monotonic() - begun_s < DEADLINE_S:
            attempts += 1
            attempt = self._attempt(client, request)
            self.attempts.append(attempt)
            if attempt.ending != "to be tried again":
                break
            time.sleep(_PAUSE_S)
        taken_s = time.monotonic() - begun_s
        served = attempt.ending == "picture" and taken_s <= DEADLINE_S
        self.wishes.append(Wish(attempts, taken_s, served))

    def _attempt(self, client: Client, request: Request) -> Attempt:
        begun_s = time.monotonic()
        ending: Ending
        text = ""
        try:
            off = int(np.abs(request.send(client) - self._known[request.index]).max())
            ending = "picture" if off <= MOST_OFF else "wrong picture"
            text = f"{off} grey levels off" if off > MOST_OFF else ""
        except SegsError as error:
            ending = "to be tried again" if error.retryable else "other error"
            text = f"{error.code}: {error.message}"
        seconds = time.monotonic() - begun_s
        if seconds > DEADLINE_S + LATE_S:
            ending = "too late"
        return Attempt(request, begun_s, seconds, ending, text)

    def _kill(self, choose: random.Random, victims: Sequence[str]) -> bool:
        """One kill, until the server is whole again; False where it does not come back."""
        stubs = self.server.stubs()
        self.shared |= shared_files(self.server.pids().values())
        victim = choose.choice([name for name in sorted(stubs) if _is_among(name, victims)])
        number = signal.SIGSTOP if choose.random() < _STOPPED else signal.SIGKILL
        killed_s = time.monotonic()
        os.kill(stubs[victim], number)
        back_s = None
        while time.monotonic() - killed_s < _BACK_S:
            time.sleep(0.1)
            if back_s is None:
                if self.server.stubs().get(victim, stubs[victim]) == stubs[victim]:
                    continue
                back_s = time.monotonic()
            answered = self._first_answer(victim, killed_s)
            whole = self._first_answer(victim, back_s)
            if answered is not None and whole is not None and self.server.is_ready():
                kill = Kill(victim, number.name, answered - killed_s, whole - killed_s)
                self.kills.append(kill)
                log.info("%d %s", len(self.kills), kill)
                return True
        self.never_back.append(f"{victim}, {number.name}")
        return False

    def _first_answer(self, victim: str, since_s: float) -> float | None:
        """When a picture came whose request was begun since then and needs the victim."""
        needs_controlnet = "_controlnet_" in victim
        ends = (
            each.begun_s + each.seconds
            for each in list(self.attempts)
            if each.ending == "picture"
            and each.begun_s >= since_s
            and (each.request.with_controlnet or not needs_controlnet)
        )
        return min(ends, default=None)

    def report(self) -> tuple[str, bool]:
        """The report in Markdown, and whether all went as promised."""
        endings = Counter(each.ending for each in self.attempts)
        served = sum(wish.served for wish in self.wishes)
        slowest_s = _percentile((kill.whole_s for kill in self.kills), 95)
        unkept = [each for each in self.attempts if each.ending not in _FINE]
        kept = not unkept and not self.never_back and slowest_s <= MOST_RECOVERY_S
        again = _percentile((wish.seconds for wish in self.wishes if wish.served), 95)
        _, health = self.server.health()
        said = (
            f"{describe()}. {len(self.kills)} kills; {health['reloads']} times a model was loaded "
            f"again, {health['restarts']} times the server was started again. {_CLIENTS} clients, "
            f"deadline {DEADLINE_S:g} s; before the first kill a picture took, p50 / p95 / most, "
            f"{_spread([each.seconds for each in self.calm])} s. A client that repeats what is to "
            f"be tried again got {served} of {len(self.wishes)} pictures within {DEADLINE_S:g} s, "
            f"p95 {again:.1f} s."
        )
        attempts = markdown(
            ["what a call got", "calls"], [[name, endings[name]] for name in _endings()]
        )
        parts = [said, attempts, self._by_victim()]
        parts += [f"- {each.ending}, {each.seconds:.1f} s: {each.text}" for each in unkept[:20]]
        parts += [f"- never back: {each}" for each in self.never_back]
        texts = Counter(each.text for each in self.attempts if each.ending == "to be tried again")
        parts += [f"- {times} × {words}" for words, times in texts.most_common(12)]
        return "\n\n".join(parts) + "\n", kept

    def _by_victim(self) -> str:
        rows = []
        names = sorted({(kill.victim.rsplit("_", 2)[0], kill.signal) for kill in self.kills})
        for name, number in [*names, ("", "SIGKILL"), ("", "SIGSTOP"), ("", "")]:
            own = [
                kill
                for kill in self.kills
                if name in ("", kill.victim.rsplit("_", 2)[0]) and number in ("", kill.signal)
            ]
            if own:
                label = [name or "**all**", number or "both", len(own)]
                times = [[kill.answered_s for kill in own], [kill.whole_s for kill in own]]
                rows.append([*label, *(_spread(each) for each in times)])
        head = ["victim", "signal", "kills", "answered after, s: p50 / p95 / most"]
        return markdown([*head, "whole after, s: p50 / p95 / most"], rows)


def _endings() -> tuple[Ending, ...]:
    return (*_FINE, "wrong picture", "other error", "too late")


def _picture() -> NDArray[np.uint8]:
    return np.asarray(scene.draw()[0].resize(_SIZE))


def _is_among(name: str, victims: Sequence[str]) -> bool:
    return not victims or any(victim in name for victim in victims)


def _spread(seconds: list[float]) -> str:
    p95 = _percentile(seconds, 95)
    return f"{statistics.median(seconds):.1f} / {p95:.1f} / {max(seconds):.1f}"


def _percentile(values: Iterable[float], percent: float) -> float:
    found = list(values)
    return float(np.percentile(found, percent)) if found else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Kills; returns 1 if something promised was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--victims", nargs="+", default=[], help="parts of models' names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("build/kills/report.md"))
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    report: Path = arguments.report
    report.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(REPOSITORY, Path(folder), "--text-cache", "0") as server,
    ):
        kills = Kills(server)

        def write() -> None:
            report.write_text(kills.report()[0])

        kills.run(arguments.count, arguments.victims, arguments.seed, write)
        text, kept = kills.report()
        (report.parent / "server.log").write_bytes(server.log_path.read_bytes())
    left = sorted(path for path in kills.shared if Path(path).exists())
    text += f"\nShared memory left behind: {', '.join(left) or 'none'}.\n"
    report.write_text(text)
    sys.stdout.write(text)
    return 0 if kept and not left else 1


if __name__ == "__main__":
    sys.exit(main())
