"""What a run has shown: a time line, the balance, and which bars were missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.chart import Chart, draw
from benchmarks.cluster.load import Answer
from benchmarks.cluster.servers import Sight
from benchmarks.tables import markdown

MOST_IMBALANCE = 0.15
_BIN_S = 2.0


@dataclass(frozen=True)
class Phase:
    """A stretch of the run on the monotonic clock; ``balanced``: all servers were up all the time,
    so that their work can be compared."""

    name: str
    start_s: float
    end_s: float
    balanced: bool = False


@dataclass(frozen=True)
class Run:
    """Everything that was noted."""

    phases: Sequence[Phase]
    answers: Sequence[Answer]
    sights: Sequence[Sight]
    retries: Mapping[str, float]
    """How often requests were sent again, by the proxy's counters and by the clients."""

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.error]

    def rows(self, phase: Phase) -> tuple[int, ...]:
        """Rows of each server's UNet in a phase."""
        inside = [each for each in self.sights if phase.start_s <= each.at_s <= phase.end_s]
        if len(inside) < 2:
            return ()
        return tuple(
            last - first for first, last in zip(inside[0].rows, inside[-1].rows, strict=True)
        )

    def imbalance(self) -> float:
        """The most that one server's work differs from the mean, over all phases in which all were
        up, as a share of the mean."""
        rows = [self.rows(phase) for phase in self.phases if phase.balanced]
        return _imbalance(np.sum([each for each in rows if each], axis=0))

    def missed(self) -> list[str]:
        """The bars that were missed."""
        update = next((phase for phase in self.phases if phase.name == "update"), None)
        late = [each for each in self.answers if update and each.start_s > update.end_s]
        bars = {
            "failed requests": not self.failed,
            "balance": self.imbalance() <= MOST_IMBALANCE,
            "the new engine": all(answer.engine == 1 for answer in late),
        }
        return [name for name, kept in bars.items() if not kept]

    def text(self) -> str:
        """The time line and the result, in Markdown."""
        begin_s = self.phases[0].start_s
        head = ["s", "what", "answers", "failed", "p50, s", "p95, s", "max, s"]
        head += ["UNet rows of each server", "farthest from the mean"]
        lines = [self._line(phase, begin_s) for phase in self.phases]
        retries = ", ".join(f"{name} {value:.0f}" for name, value in self.retries.items())
        result = [
            f"{len(self.answers)} requests, {len(self.failed)} failed; "
            f"work while all were up: {self.imbalance():.1%} from the mean at most",
            f"sent again: {retries}",
            *(f"failed: {answer.error}" for answer in self.failed[:5]),
            f"missed: {', '.join(self.missed()) or 'nothing'}",
        ]
        return "\n".join([markdown(head, lines), "", *(f"- {each}" for each in result), ""])

    def _line(self, phase: Phase, begin_s: float) -> list[str]:
        answers = [each for each in self.answers if phase.start_s <= each.end_s < phase.end_s]
        seconds = [answer.seconds for answer in answers] or [0.0]
        rows = self.rows(phase)
        return [
            f"{phase.start_s - begin_s:.0f}",
            phase.name,
            str(len(answers)),
            str(sum(bool(answer.error) for answer in answers)),
            *(f"{np.percentile(seconds, percent):.2f}" for percent in (50, 95, 100)),
            " / ".join(map(str, rows)),
            f"{_imbalance(np.array(rows)):.1%}" if phase.balanced and rows else "",
        ]

    def draw(self, path: Path) -> None:
        """Answers, work and readiness over time, as a PNG."""
        begin_s, end_s = self.phases[0].start_s, self.phases[-1].end_s
        edges = np.arange(begin_s, end_s + _BIN_S, _BIN_S)
        middles = edges[:-1] + _BIN_S / 2 - begin_s
        counts = np.histogram([answer.end_s for answer in self.answers], edges)[0] / _BIN_S
        failed = np.histogram([answer.end_s for answer in self.failed], edges)[0] / _BIN_S
        at_s = [each.at_s for each in self.sights]
        work, ready = {}, {}
        for index in range(len(self.sights[0].rows)):
            total = np.interp(edges, at_s, [each.rows[index] for each in self.sights])
            work[f"server {index}"] = list(zip(middles, np.diff(total) / _BIN_S, strict=True))
            ready[f"server {index}"] = [
                (each.at_s - begin_s, float(each.ready[index]) * (1 + index / 20))
                for each in self.sights
            ]
        answers = {
            "answers": list(zip(middles, counts, strict=True)),
            "failed": list(zip(middles, failed, strict=True)),
        }
        charts = [
            Chart("answers per second", answers),
            Chart("UNet rows per second", work),
            Chart("ready", ready),
        ]
        draw(path, charts, "seconds")


def _imbalance(rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> float:
    mean = float(np.mean(rows)) if np.size(rows) else 0.0
    return float(np.max(np.abs(rows - mean))) / mean if mean else 1.0
