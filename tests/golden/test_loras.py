"""Golden cases with LoRAs. Each needs a pipeline of its own, so most are run with ``-m slow``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engines.checkpoint import DiffusersFolder
from build_engines.lora import WithLoras
from build_engines.options import Lora
from tests.conftest import CHECKPOINTS, DATA
from tests.golden.cases import Case, find, read
from tests.golden.pipelines import build_pipelines
from tests.golden.runners import EngineRunner
from tests.golden.verdict import judge

FOLDER = DATA / "golden_lora"
PARTLY_READ = ("lora-diff_08_08", "lora-peft_08_08", "lora-peft_alpha_08_08")
"""Cases whose picture the reference made of a part of the LoRA: without the projections of the
UNet's attention, whose names it did not find, and without the alpha of the metadata."""
QUICK = ("lora-stack", "sdxl-lora-08_05")
CASES = [
    pytest.param(read(path), marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem)
    for path in find(FOLDER, ())
    if path.stem not in PARTLY_READ
]


def run(case: Case, repository: Path) -> None:
    build_pipelines([case], CHECKPOINTS, repository)
    verdict = judge(case, EngineRunner(repository).run(case))
    assert verdict.passed, verdict


@pytest.fixture(scope="session")
def loras_repository() -> Path:
    """The folder of the cases' pipelines, kept between runs."""
    return Path(__file__).parents[2] / "build" / "tests_loras"


def test_there_are_cases() -> None:
    assert len(CASES) == 12


@pytest.mark.parametrize("case", CASES)
def test_through_the_engine(case: Case, loras_repository: Path) -> None:
    run(case, loras_repository)


def rewritten(lora: Path, folder: Path, alpha: float) -> Path:
    """The LoRA in kohya's layout, of which the reference reads all modules."""
    roles = {".lora.": ".lora_", ".lora_A.": ".lora_down.", ".lora_B.": ".lora_up."}
    tensors = {}
    for name, value in load_file(lora).items():
        for theirs, own in roles.items():
            name = name.replace(theirs, own)
        module, role, weight = name.rsplit(".", 2)
        part, _, rest = module.partition(".")
        stem = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + rest.replace(".", "_")
        tensors[f"{stem}.{role}.{weight}"] = value
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(tensors, folder / lora.name)
    return folder / lora.name


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("diff", 4.0), ("peft", 4.0), ("peft_alpha", 2.0)],
    ids=lambda value: f"{value}",
)
def test_a_lora_is_read_whole_in_every_layout(name: str, alpha: float, tmp_path: Path) -> None:
    lora = FOLDER / "loras" / f"{name}.safetensors"
    base = DiffusersFolder(CHECKPOINTS / "sd15")
    other = rewritten(lora, tmp_path, alpha)
    one, two = (WithLoras(base, [(each, 0.8)]) for each in (lora, other))
    changed = 0
    for part in ("unet", "text_encoder"):
        for before, first, second in zip(*(c.tensors(part) for c in (base, one, two)), strict=True):
            assert torch.equal(first.read(), second.read())
            changed += not torch.equal(first.read(), before.read())
    assert changed == 22


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTLY_READ)
def test_the_part_that_the_reference_read_gives_its_picture(name: str, tmp_path: Path) -> None:
    case = read(FOLDER / f"{name}.npz")
    (lora,) = case.loras
    projections = (".to_q.", ".to_k.", ".to_v.", ".to_out.")
    part = {
        name: value
        for name, value in load_file(lora.path).items()
        if not (name.startswith("unet.") and any(each in name for each in projections))
    }
    assert len({name.rsplit(".lora", 1)[0] for name in part if name.startswith("unet.")}) == 6
    save_file(part, tmp_path / "part.safetensors")
    given = Lora(tmp_path / "part.safetensors", lora.model, lora.clip)
    run(replace(case, loras=(given,)), tmp_path / "pipelines")
