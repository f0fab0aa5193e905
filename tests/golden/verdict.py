"""Compares what came back with what the reference made."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.descriptor import Precision
from segs_client.messages import DetailResult
from tests.golden.cases import Case


@dataclass(frozen=True)
class Tolerance:
    """Greatest difference of a value, and of a SEG's mean; in grey levels."""

    greatest: float
    mean: float

    def __str__(self) -> str:
        greatest = "any" if math.isinf(self.greatest) else f"at most {self.greatest:g}"
        mean = "any" if math.isinf(self.mean) else f"at most {self.mean:g}"
        return f"{greatest} at a pixel, {mean} in the mean"


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(3.0, 0.1),
    "fp16": Tolerance(math.inf, 1.5),
    "bf16": Tolerance(math.inf, math.inf),
}
"""By the networks' precision. bfloat16 has no bar: its eight bits show in every picture."""


@dataclass(frozen=True)
class Verdict:
    """Differences in grey levels over the output SEGS, and what is wrong, if anything."""

    max_difference: float = 0.0
    mean_difference: float = 0.0
    fault: str | None = None

    @property
    def passed(self) -> bool:
        return self.fault is None

    def __str__(self) -> str:
        if self.fault is not None:
            return f"FAILED  {self.fault}"
        return f"max {self.max_difference:g}  mean {self.mean_difference:.4f}"


def judge(case: Case, result: DetailResult, tolerance: Tolerance = TOLERANCES["fp32"]) -> Verdict:
    """Every output SEG (and the pasted picture) within tolerance, regions and missing images
    exact."""
    if len(result.segs) != len(case.expected):
        return Verdict(fault=f"{len(result.segs)} SEGS came back, {len(case.expected)} expected")
    regions = tuple(tuple(seg.crop_region) for seg in result.segs)
    if regions != case.crop_regions:
        return Verdict(fault=f"crop regions {regions}, expected {case.crop_regions}")
    differences = []
    for index, (seg, expected) in enumerate(zip(result.segs, case.expected, strict=True)):
        if (seg.image is None) != (expected is None):
            return Verdict(fault=f"SEG {index} has {'no' if seg.image is None else 'an'} image")
        if seg.image is not None and expected is not None:
            pixels = np.rint(seg.image.astype(np.float64) * 255)
            if pixels.shape != expected.shape:
                return Verdict(fault=f"SEG {index} is {pixels.shape}, expected {expected.shape}")
            differences.append(np.abs(pixels - expected))
    verdict = _within_tolerance("SEGS", differences, tolerance)
    if verdict.passed and case.pasted is not None and result.image is not None:
        pasted = np.asarray(result.image).astype(np.float64)
        difference = np.abs(pasted - case.pasted)
        pasted_verdict = _within_tolerance("pasted picture", [difference], tolerance)
        if not pasted_verdict.passed:
            return pasted_verdict
    return verdict


def _within_tolerance(
    what: str, differences: list[NDArray[np.float64]], tolerance: Tolerance
) -> Verdict:
    largest = max((float(one.max()) for one in differences), default=0.0)
    mean = max((float(one.mean()) for one in differences), default=0.0)
    if largest > tolerance.greatest or mean > tolerance.mean:
        return Verdict(largest, mean, f"{what}: max {largest:g}, mean {mean:.4f}")
    return Verdict(largest, mean)
