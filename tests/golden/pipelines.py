"""Compiles the checkpoints that golden cases need."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from build_engines import TargetOptions, build
from build_engines.options import Lora
from build_engines.schedule import SCHEDULER_CONFIG
from tests.golden.cases import CONTROLNET, ZERO_SNR, Case


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
        with checkpoint_folder(checkpoints, checkpoint) as folder:
            build(folder, name, repository, target, controlnets=controlnets, loras=loras)


@contextlib.contextmanager
def checkpoint_folder(checkpoints: Path, name: str) -> Iterator[Path]:
    """The folder of a checkpoint, while it is used; one with zero terminal SNR is made of the
    checkpoint that its name begins with."""
    if not name.endswith(ZERO_SNR):
        yield checkpoints / name
        return
    source = (checkpoints / name.removesuffix(ZERO_SNR)).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        for part in source.iterdir():
            if part.name != Path(SCHEDULER_CONFIG).parts[0]:
                (folder / part.name).symlink_to(part)
        config = json.loads((source / SCHEDULER_CONFIG).read_text("utf-8"))
        config["rescale_betas_zero_snr"] = True
        (folder / SCHEDULER_CONFIG).parent.mkdir()
        (folder / SCHEDULER_CONFIG).write_text(json.dumps(config), "utf-8")
        yield folder
