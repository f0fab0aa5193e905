"""Requests to calibrate with and to judge by, and the sample of inputs that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from build_engines.errors import BuildError
from build_engines.quantize.calibration import RowSample, collect
from build_engines.quantize.runs import Runs
from build_engines.quantize.workload import (
    CALIBRATING,
    JUDGING,
    PROMPTS_FILE,
    Workload,
    read_pictures,
    read_prompts,
)
from pipelines.descriptor import load_all
from tests.conftest import CONTROLNET

PICTURE = np.zeros((96, 128, 3), np.uint8)


def workload(count: int = 1, controlnets: tuple[str, ...] = ()) -> Workload:
    pictures = [(f"{i}.png", np.full_like(PICTURE, i)) for i in range(count)]
    return Workload(pictures, [f"prompt {i}" for i in range(8)], 128, 2, controlnets)


def test_requests_to_judge_by_are_others() -> None:
    made = workload(count=4)
    calibrating, judging = made.calibrating(), made.judging()
    assert (len(calibrating), len(judging)) == (CALIBRATING, JUDGING)
    for field in ("prompt", "seed"):
        ours, others = ({each.options[field] for each in side} for side in (calibrating, judging))
        assert not ours & others
    assert not {each.name for each in calibrating} & {each.name for each in judging}


def test_a_single_picture_and_prompt_stand_on_both_sides() -> None:
    made = Workload([("a", PICTURE)], ["one"], 128, 2)
    calibrating, judging = made.calibrating(), made.judging()
    assert {each.options["prompt"] for each in (*calibrating, *judging)} == {"one"}
    assert not {each.box for each in calibrating} & {each.box for each in judging}


def test_requests_go_over_noise_levels_forms_and_controlnets() -> None:
    requests = workload(controlnets=("edges",)).calibrating()
    assert {each.options["denoise"] for each in requests} == {1.0, 0.75, 0.5, 0.35}
    shapes = {(x2 - x1) / (y2 - y1) for x1, y1, x2, y2 in (each.box for each in requests)}
    assert min(shapes) < 0.8
    assert max(shapes) > 1.3
    assert sum("controlnets" in each.options for each in requests) == CALIBRATING // 3
    for x1, y1, x2, y2 in (each.box for each in requests):
        assert 0 <= x1 < x2 <= 128
        assert 0 <= y1 < y2 <= 96


def test_the_same_workload_has_the_same_requests_and_digest() -> None:
    assert workload().calibrating() == workload().calibrating()
    assert workload().digest() == workload().digest()
    assert workload().digest() != workload(2).digest()


def test_a_folder_gives_pictures_and_prompts(tmp_path: Path) -> None:
    assert read_pictures(tmp_path)[0][0] == "scene"
    assert len(read_prompts(tmp_path)) >= CALIBRATING + JUDGING
    Image.new("RGBA", (40, 30), (1, 2, 3, 4)).save(tmp_path / "b.PNG")
    Image.new("L", (20, 30), 7).save(tmp_path / "a.jpg")
    (tmp_path / PROMPTS_FILE).write_text("a hat\n\n  a dog \n")
    assert [(name, picture.shape) for name, picture in read_pictures(tmp_path)] == [
        ("a.jpg", (30, 20, 3)),
        ("b.PNG", (30, 40, 3)),
    ]
    assert read_prompts(tmp_path) == ["a hat", "a dog"]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / PROMPTS_FILE).write_text("\n \n")
    with pytest.raises(BuildError, match="no prompt"):
        read_prompts(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BuildError, match="cannot be read"):
        read_pictures(tmp_path)


def row(value: float) -> dict[str, Any]:
    return {"sample": np.full((1, 4), value, np.float32), "t": np.full((1, 1), 2, np.float32)}


def test_the_sample_depends_neither_on_order_nor_on_batches(tmp_path: Path) -> None:
    rows = [row(value) for value in range(40)]
    together = {name: np.concatenate([each[name] for each in rows]) for name in rows[0]}
    names = []
    for folder, calls in (("a", rows), ("b", rows[::-1]), ("c", [together, together])):
        (tmp_path / folder).mkdir()
        sample = RowSample(tmp_path / folder, 6)
        for call in calls:
            sample.offer(call)
        assert len(sample) == 6
        names.append({path.name for path in (tmp_path / folder).iterdir()})
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 6


def test_the_sample_is_seeded_and_takes_from_everywhere(tmp_path: Path) -> None:
    counts = np.zeros(4)
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        sample = RowSample(folder, 4, seed)
        for value in range(40):
            sample.offer(row(value))
        for path in folder.iterdir():
            with np.load(path) as kept:
                counts[int(kept["sample"][0, 0]) // 10] += 1
    assert counts.sum() == 120
    assert counts.min() >= 15  # 30 are expected of each quarter


def test_inputs_of_real_runs_are_kept_over_all_steps(repository: Path, tmp_path: Path) -> None:
    descriptor, folder = load_all([repository])["sd15"]
    made = Workload(
        read_pictures(tmp_path), ["a cat", "a dog"], side=128, steps=4, controlnets=(CONTROLNET,)
    )
    requests = made.calibrating()[:3]
    runs = Runs(folder, descriptor)
    rows = tmp_path / "rows"
    assert collect(runs, requests, rows, rows=100, made_from="x") == 3 * 4 * 2  # steps, prompts
    found = [dict(np.load(path)) for path in sorted(rows.glob("*.npz"))]
    assert all(each.keys() == set(descriptor.networks["unet"].inputs) for each in found)
    assert len({float(each["timestep"][0, 0]) for each in found}) >= 6
    assert len({each["sample"].shape for each in found}) >= 2
    sizes = {each["mid_residual"].shape[2:] == (1, 1) for each in found}
    assert sizes == {True, False}  # with a ControlNet and without
    # What is there already is kept, unless it was made from something else.
    assert collect(runs, [], rows, rows=100, made_from="x") == len(found)
    assert collect(runs, requests[:1], rows, rows=3, made_from="y") == 3
    assert len(list(rows.glob("*.npz"))) == 3
