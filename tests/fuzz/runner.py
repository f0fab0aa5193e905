"""A run: many calls by several clients, each judged; what broke the server is found and kept."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serving.errors import ServingError
from tests.fuzz.calls import Call, Calls
from tests.fuzz.sending import Answer, Sender
from tests.fuzz.target import Target
from tests.fuzz.verdicts import BAD, Outcome, Verdict, judge

log = logging.getLogger(__name__)

REFUSAL_S = 0.1
"""Within this a refusal has to come, with nothing else under way."""
_CHUNK = 500
_AGAIN = 5
"""How often a slow refusal is sent again by itself."""


@dataclass
class Tally:
    """What came of the calls of one kind."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    refusals_s: list[float] = field(default_factory=list)
    slow_alone: int = 0
    """Refusals that took too long each time, also with nothing else under way."""
    slowest_alone_s: float = 0.0

    @property
    def count(self) -> int:
        """All calls."""
        return self.verdicts.total()

    def percentile(self, percent: float) -> float:
        """Of the refusals' seconds."""
        return float(np.percentile(self.refusals_s, percent)) if self.refusals_s else 0.0


@dataclass(frozen=True)
class Finding:
    """A call whose outcome must not be."""

    call: Call
    outcome: Outcome
    what: str

    def save(self, folder: Path) -> None:
        """Writes the call's bytes and what came of it."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.call.number}-{self.call.kind}"
        (folder / f"{name}.bin").write_bytes(self.call.body)
        told = {"what": self.what, "method": self.call.method, "port": self.call.port}
        told |= {"code": self.outcome.code, "text": self.outcome.text[:2000]}
        told |= {"seconds": str(self.outcome.seconds)}
        (folder / f"{name}.json").write_text(json.dumps(told, indent=2))


@dataclass
class Run:
    """Sends calls and keeps count.

    Args:
        keep: where findings are written.
        progress: is told now and then how far it is.
    """

    target: Target
    calls: Calls
    clients: int = 2
    keep: Path | None = None
    progress: Callable[[str], object] | None = None
    tallies: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    codes: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    """What was answered, numbers and names left out."""
    findings: list[Finding] = field(default_factory=list)
    _slow: list[tuple[float, Call]] = field(default_factory=list)
    _expected: list[Answer] = field(default_factory=list)
    _broken: threading.Event = field(default_factory=threading.Event)

    def run(self, numbers: Iterable[int]) -> None:
        """Sends the calls of these numbers.

        Raises:
            ServingError: the server is broken and cannot be started again.
        """
        self._expect()
        begun = told = time.monotonic()
        done = 0
        for chunk in _chunks(numbers, _CHUNK):
            self._chunk(chunk)
            done += len(chunk)
            if self.progress is not None and time.monotonic() - told > 5:
                told = time.monotonic()
                self.progress(self._how_far(done, told - begun))
        self._again()
        self.target.canary()

    def _how_far(self, done: int, seconds: float) -> str:
        bad = sum(tally.verdicts[kind] for tally in self.tallies.values() for kind in BAD)
        rate = done / seconds
        return f"{done} calls, {rate:.0f}/s, {bad} bad, {self.target.restarts} restarts"

    def _expect(self) -> None:
        """Asks for the answers to the valid requests while there are no other requests."""
        sender = Sender(self.target)
        for number in range(len(self.calls.valid)):
            call = self.calls.valid_call(number)
            outcome = sender.send(call)
            if outcome.code != "OK":
                raise ServingError(f"a valid request was refused: {outcome.text}")
            self._expected.append(Answer(outcome.body))
        sender.close()

    def _chunk(self, numbers: list[int]) -> None:
        """Some calls, by all clients; then a look whether the server lives."""
        left = iter(numbers)
        lock = threading.Lock()
        self._broken.clear()
        with ThreadPoolExecutor(self.clients) as pool:
            work = [pool.submit(self._client, left, lock) for _ in range(self.clients)]
            for each in work:
                each.result()
        wounds = self.target.wounds()
        if wounds:
            log.error("calls %d to %d: %s", numbers[0], numbers[-1], "; ".join(wounds))
            self._search(numbers, wounds)
            rest = list(left)
            if rest:
                self._chunk(rest)

    def _client(self, left: Iterator[int], lock: threading.Lock) -> None:
        """One client."""
        sender = Sender(self.target)
        while not self._broken.is_set():
            with lock:
                number = next(left, None)
            if number is None:
                break
            call = self.calls.call(number)
            outcome = sender.send(call)
            verdict = self._judged(call, outcome)
            with lock:
                tally = self.tallies[call.kind]
                tally.verdicts[verdict] += 1
                self.codes[outcome.code] += 1
                self.texts[_pattern(call, outcome)] += 1
                if verdict in ("refused", "foreign", "failed"):
                    tally.refusals_s.append(outcome.seconds)
            if verdict == "refused" and outcome.seconds > REFUSAL_S:
                self._slow.append((outcome.seconds, call))
            if verdict == "gone" or "not healthy" in outcome.text:
                self._broken.set()
        sender.close()

    def _judged(self, call: Call, outcome: Outcome) -> Verdict:
        verdict = judge(outcome, call.body)
        what = outcome.text[:200]
        if verdict == "answered" and call.method.endswith("Infer"):
            answer = Answer(outcome.body)
            if answer.request_id != call.request_id.partition("\0")[0]:
                verdict, what = "wrong", f"the answer to {answer.request_id!r}"
            elif call.valid is not None:
                differs = answer.differs(self._expected[call.valid])
                if differs is not None:
                    verdict, what = "wrong", differs
        elif call.valid is not None:
            verdict = "wrong"
        if verdict in BAD:
            self._found(call, outcome, f"{verdict}: {what}")
        return verdict

    def _found(self, call: Call, outcome: Outcome, what: str) -> None:
        finding = Finding(call, outcome, what)
        self.findings.append(finding)
        log.error("call %d (%s): %s", call.number, call.kind, what)
        if self.keep is not None:
            finding.save(self.keep)

    def _search(self, numbers: list[int], wounds: list[str]) -> None:
        """Sends the calls one by one to new servers, until it is known which one kills."""
        self.target.restart()
        sender = Sender(self.target)
        for number in numbers:
            call = self.calls.call(number)
            outcome = sender.send(call)
            if outcome.code in ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED") or not call.method:
                again = self.target.wounds()
                if again:
                    self._found(call, outcome, f"killed {again[0]}")
                    sender.close()
                    self.target.restart()
                    return
        sender.close()
        log.error("no single call does it: %s", wounds)

    def _again(self) -> None:
        """Slow refusals again, alone: were they slow, or was the machine busy?"""
        sender = Sender(self.target)
        for _, call in sorted(self._slow, key=lambda one: one[0], reverse=True):
            best = math.inf
            for _ in range(_AGAIN):
                best = min(best, sender.send(call).seconds)
                if best <= REFUSAL_S:
                    break
            tally = self.tallies[call.kind]
            tally.slowest_alone_s = max(tally.slowest_alone_s, best)
            if best > REFUSAL_S:
                tally.slow_alone += 1
                log.error("call %d (%s): refused after %.2f s", call.number, call.kind, best)
        sender.close()


def _pattern(call: Call, outcome: Outcome) -> str:
    text = re.sub(r"'[^']*'|[0-9a-f]{12}|-?\d+", "…", outcome.text[:300]).split("\n")[0]
    return f"{call.kind} {outcome.code} {text[:90]}"


def _chunks(numbers: Iterable[int], size: int) -> Iterator[list[int]]:
    numbers = iter(numbers)
    while chunk := list(itertools.islice(numbers, size)):
        yield chunk
