"""Blur and resize against torch, and the way a crop is pasted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from preprocessing.masks import blur, blur_kernel_size
from preprocessing.paste import paste
from sampling.masks import feather
from segs_client.arrays import resize_bilinear

RANDOM = np.random.default_rng(0).random((41, 57), dtype=np.float32)


@pytest.mark.parametrize(
    ("radius", "shape", "size"),
    [
        (0, (50, 50), 0),
        (5, (50, 50), 11),
        (20, (50, 42), 41),
        (20, (50, 41), 21),  # no larger than the kernel: half the side, made odd
        (20, (50, 40), 21),
        (100, (100, 80), 41),
        (5, (6, 50), 3),
        (5, (5, 50), 3),
        (5, (3, 50), 0),
        (1, (1, 1), 0),
    ],
)
def test_kernel_size(radius: int, shape: tuple[int, int], size: int) -> None:
    assert blur_kernel_size(radius, shape) == size


@pytest.mark.parametrize("radius", [0, 1, 5, 20, 100])
def test_both_blurs_agree(radius: int) -> None:
    expected = feather(torch.from_numpy(RANDOM), radius).numpy()
    np.testing.assert_allclose(blur(RANDOM, radius), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(41, 57), (20, 30), (82, 114), (7, 200), (1, 1)])
def test_resize_is_torchs(size: tuple[int, int]) -> None:
    image = torch.from_numpy(RANDOM)[None, None]
    expected = F.interpolate(image, size=size, mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(resize_bilinear(RANDOM, *size), expected, atol=1e-6)


def test_paste_blends_under_the_mask() -> None:
    canvas = np.zeros((10, 10, 3), dtype=np.float32)
    crop = np.ones((4, 4, 3), dtype=np.float32)
    mask = np.zeros((4, 4), dtype=np.float32)
    mask[:2] = 1
    paste(canvas, crop, mask, (3, 5, 7, 9), feather=0, alpha=51)
    assert canvas[5:7, 3:7].max() == pytest.approx(0.2)
    assert canvas.sum() == pytest.approx(0.2 * 2 * 4 * 3, rel=1e-5)


def test_paste_is_cut_at_the_border_and_fits_the_mask_to_the_crop() -> None:
    canvas = np.zeros((10, 10, 3), dtype=np.float32)
    crop = np.ones((8, 8, 3), dtype=np.float32)
    paste(canvas, crop, np.ones((4, 4), dtype=np.float32), (6, 7, 10, 10), feather=0, alpha=255)
    assert canvas[7:, 6:].min() == 1
    assert canvas.sum() == 3 * 4 * 3
