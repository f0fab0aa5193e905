"""The demo on a real server, and the bars of its pictures' quality on a few scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import quality
from examples import demo
from examples.demo_service import (
    CHECKPOINT,
    FROM_NOTHING,
    INPAINT,
    Redraw,
    build_demo,
    build_inpaint,
    prompted,
    serve_demo,
    through,
)
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client.arrays import ByteArray

pytestmark = pytest.mark.server

SCENES = 4


@pytest.fixture(scope="module")
def redraw() -> Iterator[Redraw]:
    build_demo()
    with serve_demo() as client:
        yield through(client)


@pytest.fixture(scope="module")
def scenes() -> list[SpoiltScene]:
    return [spoilt_scene(quality.FIRST_SEED + number) for number in range(SCENES)]


def _read(path: Path) -> ByteArray:
    return np.asarray(Image.open(path))


def test_the_demo_repairs_changes_one_face_and_follows_edges(tmp_path: Path) -> None:
    assert demo.main(["--output", str(tmp_path)]) == 0
    scene = spoilt_scene(demo.SEED)
    before, after, changed, controlled = (
        _read(tmp_path / f"{name}.png")
        for name in ("input", "output", "output_changed", "output_controlled")
    )
    spoilt = [face.ssim for face in quality.faces(scene, before)]
    repaired = [face.ssim for face in quality.faces(scene, after)]
    assert np.mean(np.greater(repaired, spoilt)) >= quality.SSIM_SHARE
    x1, y1, x2, y2 = scene.segs[demo.CHANGED].crop_region
    others = (after != changed).any(axis=2)
    assert others[y1:y2, x1:x2].mean() > 0.05
    others[y1:y2, x1:x2] = False
    assert not others.any(), "only one face was to change"
    assert quality.most_changed_outside(scene, controlled) == 0
    for name in ("compare", "compare_changed", "compare_controlled"):
        assert Image.open(tmp_path / f"{name}.png").width > 2 * before.shape[1]


def test_faces_are_better_repaired(redraw: Redraw, scenes: list[SpoiltScene]) -> None:
    _, bars = quality.measure_repair(redraw, scenes)
    assert all(bar.kept for bar in bars), bars


def test_parts_get_the_colours_that_prompts_name(redraw: Redraw, scenes: list[SpoiltScene]) -> None:
    _, bars = quality.measure_adherence(redraw, scenes)
    assert {bar.name for bar in bars} == {"colour of eyes", "colour of hair", "colour of hats"}
    assert all(bar.kept for bar in bars), bars


def test_the_controlnet_keeps_edges(redraw: Redraw, scenes: list[SpoiltScene]) -> None:
    _, bars = quality.measure_control(redraw, scenes[:2])
    assert all(bar.kept for bar in bars), bars


def test_more_steps_and_guidance_do_what_they_should(
    redraw: Redraw, scenes: list[SpoiltScene]
) -> None:
    for measure in (quality.measure_steps, quality.measure_guidance):
        _, bars = measure(redraw, scenes[:1])
        assert all(bar.kept for bar in bars), bars


def test_the_inpainting_network_draws_faces_from_nothing(
    tmp_path: Path, scenes: list[SpoiltScene]
) -> None:
    scene = scenes[0]
    build_inpaint(repository=tmp_path)
    with serve_demo(tmp_path) as client:
        segs = prompted(scene.segs, scene.prompts)
        pixels = through(client)(scene, segs, {**FROM_NOTHING, **INPAINT})
    assert quality.most_changed_outside(scene, pixels) == 0
    sharp = [face.sharpness for face in quality.faces(scene, scene.pixels)]
    drawn = [face.sharpness for face in quality.faces(scene, pixels)]
    assert all(np.greater(drawn, sharp))


def test_the_checkpoint_is_small_and_has_its_logs() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6
    assert {"vae.jsonl", "unet.jsonl", "unet.png", "controlnet.jsonl", "inpaint.jsonl"} <= {
        path.name for path in files
    }
