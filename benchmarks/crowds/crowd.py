"""What a crowd is: its callers, what they send, and what must hold whatever the machine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from benchmarks.crowds.calls import Answer, Ask, small_ask
from benchmarks.crowds.ends import OK, REFUSED
from benchmarks.crowds.together import Aside, Together


@dataclass(frozen=True)
class Target:
    """The server that is called.

    Args:
        url: host:port of gRPC.
        pipeline: that is asked for.
        health_url: of ``--health-port``; None: readiness and restarts are not watched.
        pid: of its supervisor, where it runs on this machine.
    """

    url: str
    pipeline: str
    health_url: str | None = None
    pid: int | None = None


@dataclass
class Outcome:
    """What came of a crowd."""

    ends: Counter[str]
    kept: dict[Ask, Answer] = field(default_factory=dict)
    """A sample of what was asked and answered, pictures included."""
    aside: Aside | None = None
    """Where a crowd has one: what came of another caller's request in its midst."""
    notes: dict[str, float] = field(default_factory=dict)
    """Further numbers, by what they are."""
    broken: list[str] = field(default_factory=list)
    """What should have held and did not."""


@dataclass(frozen=True)
class Crowd:
    """Callers of one answer each, who send at once, wait, and send nothing again.

    Args:
        callers: how many.
        steps: of the first one; each next has one more, up to ``spread`` more.
        limit_s: until a caller gives up.
        sample: so many pictures are compared with those of the same requests sent alone.
        seed: which ones.
        trouble_s: until the disturbance, where the first answer has not come before.
    """

    mode: ClassVar[str]
    allowed: ClassVar[frozenset[str]] = frozenset({OK, REFUSED})
    """How a call may end."""

    callers: int
    steps: int = 20
    spread: int = 50
    limit_s: float = 300.0
    sample: int = 5
    seed: int = 0
    trouble_s: float = 4.0

    def ask(self, target: Target, index: int) -> Ask:
        """What one caller sends; no two the same."""
        steps = self.steps + index % self.spread
        return small_ask(target.pipeline, f"{self.mode}-{index}", steps=steps, seed=index)

    def meet(self, target: Target) -> Outcome:
        """Has them all call, and waits for their answers."""
        chosen = self.chosen()
        asks = [self.ask(target, index) for index in range(self.callers)]
        asks = [ask.shown() if index in chosen else ask for index, ask in enumerate(asks)]
        with Together(target.url, asks, self.limit_s, chosen) as together:
            outcome = Outcome(Counter())
            self.trouble(target, together, outcome)
            together.wait()
            outcome.ends = together.ends()
            answers: Mapping[int, Answer] = dict(together.answers)
        outcome.kept = {asks[index]: answers[index] for index in chosen if index in answers}
        return outcome

    def chosen(self) -> frozenset[int]:
        """Numbers of the callers in the sample."""
        count = min(self.sample, self.callers)
        return frozenset(random.Random(self.seed).sample(range(self.callers), count))

    def trouble(self, target: Target, together: Together, outcome: Outcome) -> None:
        """What disturbs them while they wait: nothing."""

    def wait_for_trouble(self, together: Together) -> None:
        """Until the crowd is under way."""
        together.wait_for(1, self.trouble_s)

    def require_amidst(self, aside: Aside, what: str, outcome: Outcome) -> None:
        """Notes it as broken if the answer came only after all of the crowd's."""
        outcome.aside = aside
        if aside.sent_after == self.callers:
            outcome.broken.append(f"the crowd had ended before {what} was sent")
        elif aside.came_after == self.callers:
            outcome.broken.append(f"{what} was answered only when the crowd had ended")
