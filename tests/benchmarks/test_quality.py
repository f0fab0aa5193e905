"""The quality tables, of redrawers whose quality is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import quality
from examples.demo_checkpoint.pictures import draw
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client import Segs
from segs_client.arrays import ByteArray

SCENES = [spoilt_scene(seed) for seed in (20, 21)]


def perfect(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
    """The drawing itself."""
    return scene.drawing.pixels


def idle(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
    """The picture as it was sent."""
    return scene.pixels


def obedient(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
    """People drawn anew as the prompts say."""
    figures = []
    for figure, seg in zip(scene.drawing.figures, segs, strict=True):
        words = seg.options["prompt"].split(", ")
        person = figure.person
        for word in words:
            colour, _, part = word.rpartition(" ")
            if part == "eyes":
                person = replace(person, eyes=colour)
            if part == "hair":
                person = replace(person, hair=colour.rpartition(" ")[2])
            if part in ("beanie", "cap", "hat"):
                person = replace(person, hat_colour=colour)
        figures.append(replace(figure, person=person))
    height, width = scene.pixels.shape[:2]
    rng = np.random.default_rng(0)
    return draw(figures, scene.drawing.background, rng, (width, height)).pixels


def test_a_perfect_repair_keeps_all_bars_and_none_keeps_few() -> None:
    tables, bars = quality.measure_repair(perfect, SCENES)
    assert all(bar.kept for bar in bars), bars
    assert "| SSIM | 0." in "\n".join(tables)
    _, missed = quality.measure_repair(idle, SCENES)
    assert [bar.kept for bar in missed] == [False, False, False, False, True]


def test_a_change_outside_the_masks_is_found() -> None:
    scene = SCENES[0]
    pixels = scene.pixels.copy()
    assert quality.most_changed_outside(scene, pixels) == 0
    pixels[0, 0] += 3
    assert quality.most_changed_outside(scene, pixels) == 3


def test_adherence_is_full_where_the_prompt_is_obeyed_and_small_where_it_is_not() -> None:
    _, bars = quality.measure_adherence(obedient, SCENES)
    assert all(bar.kept for bar in bars), bars
    _, ignored = quality.measure_adherence(perfect, SCENES)
    assert not any(bar.kept for bar in ignored)


def test_a_controlnet_must_be_better_than_none() -> None:
    def with_control(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
        return (perfect if options.get("controlnets") else idle)(scene, segs, options)

    _, (bar,) = quality.measure_control(with_control, SCENES)
    assert bar.kept
    _, (bar,) = quality.measure_control(idle, SCENES)
    assert not bar.kept


def test_more_steps_must_draw_more() -> None:
    def slowly(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
        return (perfect if options["steps"] > 4 else idle)(scene, segs, options)

    lines, (bar,) = quality.measure_steps(slowly, SCENES[:1])
    assert bar.kept
    assert len(lines) == 2 + len(quality.STEPS)
    _, (bar,) = quality.measure_steps(idle, SCENES[:1])
    assert not bar.kept


def test_guidance_must_follow_the_prompt() -> None:
    def guided(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> ByteArray:
        return (obedient if options["cfg"] > 1 else perfect)(scene, segs, options)

    lines, (bar,) = quality.measure_guidance(guided, SCENES[:1])
    assert bar.kept
    assert len(lines) == 2 + len(quality.CFGS)
    _, (bar,) = quality.measure_guidance(perfect, SCENES[:1])
    assert not bar.kept
