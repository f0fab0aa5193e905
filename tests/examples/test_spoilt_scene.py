"""Scenes whose faces are spoilt."""

from __future__ import annotations

import numpy as np

from examples.demo_checkpoint.degrade import Degradation
from examples.spoilt_scene import spoilt_scene


def test_only_what_the_masks_cover_is_spoilt() -> None:
    scene = spoilt_scene(1)
    covered = np.zeros(scene.pixels.shape[:2], bool)
    for seg in scene.segs:
        x1, y1, x2, y2 = seg.crop_region
        covered[y1:y2, x1:x2] |= seg.mask > 0
    changed = (scene.pixels != scene.drawing.pixels).any(axis=2)
    assert changed[covered].mean() > 0.5
    assert not changed[~covered].any()


def test_there_is_a_seg_and_a_prompt_for_each_person() -> None:
    scene = spoilt_scene(2)
    assert len(scene.segs) == len(scene.prompts) == len(scene.drawing.figures)
    for seg, figure, prompt in zip(scene.segs, scene.drawing.figures, scene.prompts, strict=True):
        x1, y1, x2, y2 = seg.bbox
        assert x1 < figure.x < x2 and y1 < figure.y < y2
        assert y2 - y1 >= 0.9 * figure.height_px
        assert f"{figure.person.eyes} eyes" in prompt


def test_a_stronger_degradation_leaves_less() -> None:
    clean = spoilt_scene(1).drawing.pixels.astype(float)
    mild, strong = (
        spoilt_scene(1, how=Degradation(blur_px=1, shrink=shrink)).pixels for shrink in (1.5, 5)
    )
    assert np.square(mild - clean).mean() < np.square(strong - clean).mean()
