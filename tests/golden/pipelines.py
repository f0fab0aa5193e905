"""Compiles the checkpoints that golden cases need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from build_engines import TargetOptions, build
from tests.golden.cases import CONTROLNET, Case


def build_pipelines(
    cases: Iterable[Case], checkpoints: Path, repository: Path, target: TargetOptions | None = None
) -> None:
    """One pipeline per checkpoint, named as its folder; with the ControlNet where cases use it."""
    needed: dict[str, bool] = {}
    for case in cases:
        needed[case.checkpoint] = needed.get(case.checkpoint, False) or bool(
            case.options["controlnets"]
        )
        if case.refiner is not None:
            needed.setdefault(case.refiner, False)
    for name, controlled in sorted(needed.items()):
        controlnets = {CONTROLNET: checkpoints / CONTROLNET} if controlled else {}
        build(checkpoints / name, name, repository, target, controlnets=controlnets)
