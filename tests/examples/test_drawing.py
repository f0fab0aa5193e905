"""The cartoon portraits and scenes: the same for a seed, labelled as drawn, antialiased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
import pytest

from examples.demo_checkpoint import person
from examples.demo_checkpoint.degrade import Degradation, by_lot, degrade
from examples.demo_checkpoint.person import COLOURS, EYE_COLOURS, HAIR_COLOURS, Colour, Person
from examples.demo_checkpoint.pictures import (
    Drawing,
    Figure,
    Mask,
    draw,
    draw_portrait,
    draw_scene,
    main_figure,
)
from segs_client.arrays import ByteArray

PLAIN = Person(
    skin="light", hair_style="short", hair="brown", eyes="blue", mouth="serious", beard="",
    glasses=False, hat="", hat_colour="red", shirt="green",
)  # fmt: skip


def _drawn(who: Person, side: int = 128, background: str = "yellow") -> Drawing:
    figure = Figure(who, side / 2, 0.55 * side, 0.7 * side)
    return draw([figure], background, np.random.default_rng(0), (side, side), masks=True)


def test_a_seed_draws_the_same_picture_again() -> None:
    first, again, other = draw_scene(3), draw_scene(3), draw_scene(4)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.figures == again.figures
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_has_three_to_eight_people_whose_faces_can_be_seen(seed: int) -> None:
    scene = draw_scene(seed)
    assert 3 <= len(scene.figures) <= 8
    for figure, masks in zip(scene.figures, scene.masks, strict=True):
        area = figure.height_px**2
        assert masks.face.sum() > 0.2 * area, "hidden by another person"
        assert masks.eyes.sum() > 0.02 * area
        assert masks.head.max() == 1 and masks.head.min() == 0


def test_masks_lie_within_each_other() -> None:
    masks = _drawn(replace(PLAIN, hat="cap")).masks[0]
    for inner, outer in (
        (masks.irises, masks.eyes),
        (masks.eyes, masks.face),
        (masks.face, masks.head),
        (masks.hair, masks.head),
        (masks.hat, masks.head),
    ):
        assert inner.sum() > 0
        assert np.all(inner <= outer + 1e-6)


@pytest.mark.parametrize("eyes", EYE_COLOURS)
@pytest.mark.parametrize("hair", HAIR_COLOURS)
def test_eyes_and_hair_have_the_colour_of_their_name(eyes: str, hair: str) -> None:
    drawing = _drawn(replace(PLAIN, eyes=eyes, hair=hair))
    masks = drawing.masks[0]
    assert _nearest(drawing, masks.irises, EYE_COLOURS) == eyes
    assert _nearest(drawing, masks.hair, HAIR_COLOURS) == hair


@pytest.mark.parametrize("hat", person.HATS[1:])
@pytest.mark.parametrize("colour", COLOURS)
def test_hats_have_the_colour_of_their_name(hat: str, colour: str) -> None:
    drawing = _drawn(replace(PLAIN, hat=hat, hat_colour=colour))
    assert _nearest(drawing, drawing.masks[0].hat, COLOURS) == colour


def _nearest(drawing: Drawing, mask: Mask, colours: Mapping[str, Colour]) -> str:
    median = np.median(drawing.pixels[mask > 0.99], axis=0)
    return min(colours, key=lambda name: float(np.abs(median - np.array(colours[name])).sum()))


def test_edges_are_smooth_at_any_size() -> None:
    small, large = _drawn(PLAIN, 96).pixels, _drawn(PLAIN, 384).pixels
    shrunk = cv2.resize(large, (96, 96), interpolation=cv2.INTER_AREA)
    error = np.abs(small.astype(int) - shrunk.astype(int))
    assert error.mean() < 1.5


def test_every_person_of_the_tables_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    for style in (*person.HAIR_STYLES, person.BALD):
        for mouth in person.MOUTHS:
            for beard in person.BEARDS:
                who = person.draw_by_lot(rng)
                _drawn(replace(who, hair_style=style, mouth=mouth, beard=beard, glasses=True), 64)


@pytest.mark.parametrize("size", [(96, 96), (192, 128), (128, 192), (320, 240)])
def test_a_portrait_holds_its_main_figures_face(size: tuple[int, int]) -> None:
    width, height = size
    rng = np.random.default_rng(5)
    for _ in range(20):
        portrait = draw_portrait(rng, width, height)
        face = main_figure(portrait)
        assert portrait.pixels.shape == (height, width, 3)
        assert 0 < face.x < width and 0 < face.y < height
        assert face.height_px <= min(120.0, 0.72 * min(size))


def test_captions_name_what_is_drawn() -> None:
    who = replace(PLAIN, hat="beanie", beard="moustache", glasses=True)
    assert who.prompt() == (
        "serious face, light skin, short brown hair, blue eyes, glasses, brown moustache, "
        "red beanie, green shirt"
    )
    words = person.caption(who.attributes(), np.random.default_rng(0)).split(", ")
    assert 0 < len(words) <= len(who.attributes())
    assert set(words) <= set(who.attributes())


def test_only_colours_that_the_words_name_are_changed() -> None:
    who = replace(PLAIN, hat="beanie")
    changed = [
        person.recoloured(who, "red beanie, blue eyes", np.random.default_rng(seed))
        for seed in range(40)
    ]
    assert {each.hair for each in changed} == {who.hair}
    assert len({each.eyes for each in changed}) == len(EYE_COLOURS)
    assert len({each.hat_colour for each in changed}) > 5
    assert person.recoloured(who, "smiling face", np.random.default_rng(0)) == who


def test_a_portrait_with_other_looks_is_else_the_same() -> None:
    first = draw_portrait(np.random.default_rng(3), 128, 128)
    same = draw_portrait(np.random.default_rng(3), 128, 128, {PLAIN: PLAIN})
    people = [figure.person for figure in first.figures]
    purple = {each: replace(each, eyes="purple") for each in people}
    other = draw_portrait(np.random.default_rng(3), 128, 128, purple)
    assert np.array_equal(first.pixels, same.pixels)
    changed = (first.pixels != other.pixels).any(axis=2).mean()
    assert 0 < changed < 0.05


def test_degrading_keeps_the_size_and_takes_detail_away() -> None:
    pixels = _drawn(PLAIN).pixels
    spoilt = degrade(pixels, Degradation())
    assert spoilt.shape == pixels.shape and spoilt.dtype == np.uint8
    assert _sharpness(spoilt) < 0.2 * _sharpness(pixels)
    assert np.array_equal(spoilt, degrade(pixels, Degradation()))
    stronger = degrade(pixels, Degradation(blur_px=2.5, shrink=6))
    assert _sharpness(stronger) < _sharpness(spoilt)
    assert by_lot(np.random.default_rng(1)) == by_lot(np.random.default_rng(1))


def _sharpness(pixels: ByteArray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())
