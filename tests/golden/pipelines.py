"""Compiles the checkpoints that golden cases need."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from build_engines import TargetOptions, build
from build_engines.options import Lora
from tests.golden.cases import CONTROLNET, Case


def build_pipelines(
    cases: Iterable[Case], checkpoints: Path, repository: Path, target: TargetOptions | None = None
) -> None:
    """One pipeline per checkpoint and LoRAs, named as :attr:`Case.pipeline`; with the ControlNet
    where cases use it."""
    needed: dict[str, tuple[str, tuple[Lora, ...]]] = {}
    controlled = set()
    for case in cases:
        needed[case.pipeline] = (case.checkpoint, case.loras)
        if case.options["controlnets"]:
            controlled.add(case.pipeline)
        if case.refiner is not None:
            needed.setdefault(case.refiner, (case.refiner, ()))
    for name, (checkpoint, loras) in sorted(needed.items()):
        controlnets = {CONTROLNET: checkpoints / CONTROLNET} if name in controlled else {}
        build(
            *(checkpoints / checkpoint, name, repository, target),
            controlnets=controlnets,
            loras=loras,
        )
