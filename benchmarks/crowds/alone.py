"""Whether what a crowd was answered is what each of its requests is answered alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.crowds.calls import Answer, Ask, ask_patiently
from benchmarks.crowds.crowd import Target
from benchmarks.crowds.ends import LEFT, LOST, REFUSED

MOST_LEVELS = 2
MOST_MEAN = 0.05
"""Grey levels: networks' rows depend a little on the batch that they are in."""
_OWN = ("request_id", "times_s")
_SEGS_OWN = ("sample_s",)


@dataclass(frozen=True)
class Comparison:
    """Of a sample of answers with those of the same requests alone."""

    compared: int = 0
    most: int = 0
    """Of all pictures' differences, grey levels."""
    mean: float = 0.0
    """Of the picture that differs most."""
    broken: tuple[str, ...] = ()


def difference(one: bytes, other: bytes) -> tuple[int, float] | None:
    """The most and the mean that raw pictures differ by; None if their sizes do."""
    if len(one) != len(other):
        return None
    if not one:
        return 0, 0.0
    first, second = (np.frombuffer(each, np.uint8) for each in (one, other))
    levels = np.maximum(first, second) - np.minimum(first, second)  # in bytes: they may be large
    return int(levels.max()), float(levels.mean())


def essence(report: Mapping[str, Any] | None) -> Any:
    """A report without what is never the same twice."""
    if report is None:
        return None
    segs = [{k: v for k, v in seg.items() if k not in _SEGS_OWN} for seg in report["segs"]]
    return {**{k: v for k, v in report.items() if k not in _OWN}, "segs": segs}


def compare(target: Target, kept: Mapping[Ask, Answer], limit_s: float) -> Comparison:
    """Sends each again, one after another; those who were turned away or lost are left out."""
    count, most, mean, broken = 0, 0, 0.0, []
    for ask, answer in kept.items():
        if answer.end in LOST or answer.end in (REFUSED, LEFT):
            continue
        count += 1
        alone = ask_patiently(target.url, ask, limit_s, keep=True)
        if found := differing(answer, alone):
            broken.append(f"{ask.request_id}: {found}")
        if (levels := difference(answer.pixels, alone.pixels)) is not None:
            most, mean = max(most, levels[0]), max(mean, levels[1])
    return Comparison(count, most, mean, tuple(broken))


def differing(answer: Answer, alone: Answer) -> str | None:
    """In what an answer is not that of the same request alone; None: it is."""
    if answer.end != alone.end:
        return f"{answer.end}, but alone {alone.end}"
    if answer.detail is not None or alone.detail is not None:
        pairs = [(each.code, each.field) for each in (answer.detail, alone.detail) if each]
        return None if len(pairs) == 2 and pairs[0] == pairs[1] else "refused otherwise than alone"
    if essence(answer.report) != essence(alone.report):
        return "another report than alone"
    levels = difference(answer.pixels, alone.pixels)
    if levels is None:
        return "a picture of another size than alone"
    if levels[0] > MOST_LEVELS or levels[1] > MOST_MEAN:
        return (
            f"another picture than alone: {levels[0]} levels at most, {levels[1]:.3f} in the mean"
        )
    return None
