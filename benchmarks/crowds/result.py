"""One crowd from its beginning to its end, and what is said of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.crowds.alone import Comparison, compare
from benchmarks.crowds.crowd import Crowd, Outcome, Target
from benchmarks.crowds.ends import OK, REFUSED, lost
from benchmarks.crowds.together import Aside
from benchmarks.crowds.watch import Seen, ServerWatch, Stranger
from benchmarks.tables import markdown

MOST_REFUSAL_S = 2.0
BEGIN = "<!-- crowds: written by python -m benchmarks.crowds --report -->"
END = "<!-- end of crowds -->"
_HEAD = (
    "crowd",
    "callers",
    "s",
    "ends",
    "lost",
    "stranger's slowest, s",
    "in its midst, s",
    "as alone (most, mean)",
    "restarts / reloads",
    "not ready, s",
    "RSS, MiB",
    "threads",
    "held",
)


@dataclass(frozen=True)
class Result:
    """What came of one crowd."""

    mode: str
    callers: int
    steps: int
    seconds: float
    ends: Mapping[str, int]
    stranger: Mapping[str, int]
    stranger_slowest_s: float
    comparison: Comparison = field(default_factory=Comparison)
    seen: Seen = field(default_factory=Seen)
    aside: Aside | None = None
    notes: Mapping[str, float] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    """What did not hold: events and their order, never how fast the machine is."""
    late: tuple[str, ...] = ()
    """What took longer than it should."""

    @property
    def lost(self) -> int:
        return lost(self.ends)

    @property
    def held(self) -> bool:
        return not (self.broken or self.late)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "lost": self.lost, "held": self.held}

    def row(self) -> list[str]:
        """Of the table."""
        seen, aside, same = self.seen, self.aside, self.comparison
        rss_mib = None if seen.peak_rss_bytes is None else round(seen.peak_rss_bytes / 2**20)
        midst = "" if aside is None else f"{aside.seconds:.2f} {aside.end}"
        notes = [midst, *(f"{name} {value:g}" for name, value in self.notes.items())]
        return [
            self.mode,
            str(self.callers),
            f"{self.seconds:.1f}",
            _counts(self.ends),
            str(self.lost),
            f"{self.stranger_slowest_s:.1f}" if self.stranger else _shown(None),
            "; ".join(filter(None, notes)),
            f"{same.compared} ({same.most}, {same.mean:.3f})" if same.compared else "",
            f"{_shown(seen.restarts)} / {_shown(seen.reloads)}",
            _shown(seen.not_ready_s),
            _shown(rss_mib),
            _shown(seen.peak_threads),
            "yes" if self.held else f"**NO**: {'; '.join((*self.broken, *self.late))}",
        ]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _counts(ends: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))


def measure(target: Target, crowd: Crowd, every_s: float = 2.0, patience_s: float = 60.0) -> Result:
    """Has a crowd meet the server, a stranger call meanwhile, and a sample sent again alone.

    Args:
        every_s: of the stranger's requests.
        patience_s: until it gives up.
    """
    stranger = Stranger(target, every_s, patience_s)
    with ServerWatch(target) as watch:
        begun_s = time.monotonic()
        with stranger:
            outcome = crowd.meet(target)
            seconds = time.monotonic() - begun_s
        comparison = compare(target, outcome.kept, crowd.limit_s)
    seen = watch.seen()
    return Result(
        crowd.mode,
        crowd.callers,
        crowd.steps,
        round(seconds, 2),
        dict(outcome.ends),
        dict(stranger.ends),
        round(stranger.slowest_s, 2),
        comparison,
        seen,
        outcome.aside,
        outcome.notes,
        tuple(broken(crowd, outcome, stranger.ends, comparison, seen)),
        tuple(late(outcome.aside)),
    )


def broken(
    crowd: Crowd,
    outcome: Outcome,
    stranger: Mapping[str, int],
    comparison: Comparison,
    seen: Seen,
) -> list[str]:
    """What should have held and did not, in words."""
    said = list(outcome.broken)
    others = {end: count for end, count in outcome.ends.items() if end not in crowd.allowed}
    if others:
        said.append(f"of the crowd: {_counts(others)}")
    strange = {end: count for end, count in stranger.items() if end not in (OK, REFUSED)}
    if strange:
        said.append(f"of the stranger: {_counts(strange)}")
    said += comparison.broken
    for name, count in (("restarts", seen.restarts), ("reloads", seen.reloads)):
        if count:
            said.append(f"{count} {name}")
    return said


def late(aside: Aside | None) -> list[str]:
    """What took longer than it should, in words."""
    if aside is None or aside.end != "INVALID_ARGUMENT" or aside.seconds <= MOST_REFUSAL_S:
        return []
    return [f"refused after {aside.seconds:.1f} s"]


def to_markdown(results: Sequence[Result]) -> str:
    """The table, one line per crowd."""
    cells = [[cell.replace("|", "\\|") for cell in result.row()] for result in results]
    return markdown(_HEAD, cells)


def to_json(results: Sequence[Result], machine: str) -> str:
    """All that is known of them."""
    said = {"machine": machine, "crowds": [result.as_json() for result in results]}
    return json.dumps(said, indent=2) + "\n"


def write_report(path: Path, text: str) -> None:
    """Puts it between the marks of a page, which is made, or gets them at its end, where it has
    none yet.

    Raises:
        ValueError: the page has only one of the marks.
    """
    page = path.read_text() if path.exists() else ""
    if BEGIN not in page and END not in page:
        page += f"{BEGIN}\n{END}\n" if not page else f"\n{BEGIN}\n{END}\n"
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} lacks the line {BEGIN} or {END}")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
