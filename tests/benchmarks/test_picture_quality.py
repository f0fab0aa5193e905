"""The figures of a picture's quality, on pictures of which the answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.picture_quality import (
    Mask,
    colour_distance,
    colour_name,
    edge_f_score,
    psnr_db,
    sharpness,
    ssim,
)
from examples.demo_checkpoint.person import EYE_COLOURS
from examples.demo_checkpoint.pictures import draw_portrait
from segs_client.arrays import ByteArray

CLEAN = draw_portrait(np.random.default_rng(7), 128, 128).pixels
EVERYWHERE: Mask = np.ones((128, 128), np.float32)


def _blurred(sigma_px: float) -> ByteArray:
    return np.asarray(cv2.GaussianBlur(CLEAN, (0, 0), sigma_px), dtype=np.uint8)


def test_a_picture_is_like_itself() -> None:
    assert psnr_db(CLEAN, CLEAN, EVERYWHERE) == float("inf")
    assert ssim(CLEAN, CLEAN, EVERYWHERE) == pytest.approx(1)
    assert sharpness(CLEAN, CLEAN, EVERYWHERE) == 1
    assert edge_f_score(CLEAN, CLEAN, EVERYWHERE) == 1


def test_a_known_error_gives_the_textbooks_psnr() -> None:
    grey, other = np.full((8, 8, 3), 100, np.uint8), np.full((8, 8, 3), 110, np.uint8)
    mask = np.ones((8, 8), np.float32)
    assert psnr_db(grey, other, mask) == pytest.approx(20 * np.log10(25.5))


def test_a_known_ssim() -> None:
    """Of two flat pictures only the term of tone is left."""
    one, other = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 150, np.uint8)
    constant = (0.01 * 255) ** 2
    expected = (2 * 100 * 150 + constant) / (100**2 + 150**2 + constant)
    assert ssim(one, other, np.ones((32, 32), np.float32)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("figure", [psnr_db, ssim, sharpness, edge_f_score])
def test_more_blur_is_worse(figure: object) -> None:
    assert callable(figure)
    values = [figure(_blurred(sigma), CLEAN, EVERYWHERE) for sigma in (0.5, 1.5, 4.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


@pytest.mark.parametrize("figure", [psnr_db, ssim, sharpness])
def test_what_lies_outside_the_mask_does_not_count(figure: object) -> None:
    assert callable(figure)
    mask = EVERYWHERE.copy()
    mask[:, 64:] = 0
    spoilt = CLEAN.copy()
    spoilt[:, 80:] = 0
    half_blurred = _blurred(2.0)
    mixed = half_blurred.copy()
    mixed[:, 80:] = 0
    assert figure(mixed, CLEAN, mask) == pytest.approx(figure(half_blurred, CLEAN, mask))
    assert figure(spoilt, CLEAN, mask) == pytest.approx(figure(CLEAN, CLEAN, mask))


def test_edges_elsewhere_are_neither_found_nor_missed() -> None:
    empty = np.full_like(CLEAN, 128)
    assert edge_f_score(empty, CLEAN, EVERYWHERE) == 0
    assert edge_f_score(empty, empty, EVERYWHERE) == 1


@pytest.mark.parametrize("name", EYE_COLOURS)
def test_the_colour_of_a_part_is_named(name: str) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 4:12] = EYE_COLOURS[name]
    mask = np.zeros((16, 16), np.float32)
    mask[4:12, 4:12] = 1
    assert colour_name(pixels, mask, EYE_COLOURS) == name
    assert colour_name(pixels, np.zeros_like(mask), EYE_COLOURS) is None


def test_the_colour_of_most_of_a_part_counts() -> None:
    pixels = np.full((10, 10, 3), EYE_COLOURS["green"], np.uint8)
    pixels[:4] = EYE_COLOURS["brown"]
    assert colour_name(pixels, np.ones((10, 10), np.float32), EYE_COLOURS) == "green"


def test_the_distance_to_a_colour_is_that_of_its_pixels() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    everywhere = np.ones((4, 4), np.float32)
    assert colour_distance(pixels, everywhere, (0, 0, 0)) == 0
    assert colour_distance(pixels, everywhere, (255, 255, 255)) == pytest.approx(100, abs=0.1)
    assert colour_distance(pixels, 0 * everywhere, (0, 0, 0)) is None
