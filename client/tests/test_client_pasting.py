"""Scaling SEGS and pasting their crops: SEGSPaste without a server."""

from __future__ import annotations

import time
import timeit
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segs_client import InvalidRequest, Seg, Segs, paste, scaled_to
from segs_client.arrays import from_bytes, resize_lanczos, to_pixels
from segs_client.blur import blur, blur_kernel_size
from segs_client.pasting import paste_crop

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 60, 3), dtype=np.uint8)


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


@pytest.mark.parametrize("radius", [1, 7, 19])
def test_blur_is_the_plain_sum(radius: int) -> None:
    mask = RANDOM.random((41, 57), dtype=np.float32)
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / 10) ** 2)
    line /= line.sum()
    padded = np.pad(mask.astype(np.float64), radius, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (len(line), len(line)))
    np.testing.assert_allclose(blur(mask, radius), windows @ line @ line, atol=1e-6)


def test_blur_with_401_taps_is_fast() -> None:
    mask = RANDOM.random((768, 768), dtype=np.float32)
    assert (
        min(timeit.repeat(lambda: blur(mask, 200), timer=time.process_time, number=1, repeat=3))
        < 0.3
    )


def test_every_pixel_survives_the_way_to_floats_and_back() -> None:
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_pixels(from_bytes(every)), every)


def test_floats_are_truncated_and_clipped() -> None:
    values = np.array([-0.5, 0.999 / 255, 1.999 / 255, 2.0], dtype=np.float32)
    assert to_pixels(values).tolist() == [0, 0, 1, 255]


def test_resizing_to_the_same_size_changes_nothing() -> None:
    assert resize_lanczos(PIXELS, 40, 60) is PIXELS
    assert resize_lanczos(PIXELS, 14, 10).shape == (14, 10, 3)


def test_paste_crop_blends_under_the_mask() -> None:
    canvas = np.zeros((10, 10, 3), dtype=np.float32)
    crop = np.ones((4, 4, 3), dtype=np.float32)
    mask = np.zeros((4, 4), dtype=np.float32)
    mask[:2] = 1
    paste_crop(canvas, crop, mask, (3, 5, 7, 9), feather=0, alpha=51)
    assert canvas[5:7, 3:7].max() == pytest.approx(0.2)
    assert canvas.sum() == pytest.approx(0.2 * 2 * 4 * 3, rel=1e-5)


def test_paste_crop_is_cut_at_the_border_and_fits_the_mask_to_the_crop() -> None:
    canvas = np.zeros((10, 10, 3), dtype=np.float32)
    crop = np.ones((8, 8, 3), dtype=np.float32)
    paste_crop(canvas, crop, np.ones((4, 4), np.float32), (6, 7, 10, 10), feather=0, alpha=255)
    assert canvas[7:, 6:].min() == 1
    assert canvas.sum() == 3 * 4 * 3


def seg(region: tuple[int, int, int, int], grey: float | None = None, value: float = 1) -> Seg:
    x1, y1, x2, y2 = region
    mask = np.full((y2 - y1, x2 - x1), value, np.float32)
    image = None if grey is None else np.full((*mask.shape, 3), grey, np.float32)
    return Seg(mask, region, region, image=image)


def test_paste_goes_in_order_and_leaves_out_what_has_no_crop() -> None:
    segs = Segs((40, 60), (seg((0, 0, 9, 9), 1), seg((5, 5, 9, 9), 0), seg((20, 20, 30, 30))))
    pasted = np.asarray(paste(PIXELS, segs, feather=0))
    assert pasted[:5, :9].min() == 255
    assert pasted[5:9, 5:9].max() == 0
    np.testing.assert_array_equal(pasted[9:], PIXELS[9:])


def test_paste_of_nothing_is_the_picture() -> None:
    np.testing.assert_array_equal(paste(PIXELS, Segs((40, 60))), PIXELS)
    segs = Segs((40, 60), (seg((0, 0, 9, 9), 1), seg((0, 0, 9, 9), 1, value=0)))
    np.testing.assert_array_equal(paste(PIXELS, segs, alpha=0), PIXELS)


def test_alpha_and_soft_masks_multiply() -> None:
    segs = Segs((40, 60), (seg((0, 0, 30, 30), 1, value=0.5),))
    pasted = np.asarray(paste(np.zeros_like(PIXELS), segs, alpha=102))
    assert np.unique(pasted[:30, :30]).tolist() == [51]


def test_a_ref_image_replaces_the_crops() -> None:
    other = 255 - PIXELS
    segs = Segs((40, 60), (seg((0, 0, 9, 9), 1), seg((20, 10, 30, 30))))
    pasted = np.asarray(paste(PIXELS, segs, feather=0, ref_image=other))
    expected = PIXELS.copy()
    for rows, columns in ((slice(9), slice(9)), (slice(10, 30), slice(20, 30))):
        expected[rows, columns] = other[rows, columns]
    np.testing.assert_array_equal(pasted, expected)
    with pytest.raises(InvalidRequest, match=r"ref_image: size differs .*\[9, 9\].*\[40, 60\]"):
        paste(PIXELS, segs, ref_image=np.zeros((9, 9, 3)))


@pytest.mark.parametrize("ref_image", [None, 255 - PIXELS])
def test_what_leaves_the_picture_is_cut_off(ref_image: Any) -> None:
    segs = Segs((40, 60), (seg((50, 30, 70, 50), 1), seg((100, 100, 110, 110), 1)))
    pasted = np.asarray(paste(PIXELS, segs, feather=0, ref_image=ref_image))
    expected = PIXELS.copy()
    expected[30:, 50:] = 255 if ref_image is None else ref_image[30:, 50:]
    np.testing.assert_array_equal(pasted, expected)


@pytest.mark.filterwarnings("ignore:the SEGS are of a picture")
@pytest.mark.parametrize("ref_image", [None, 255 - PIXELS])
def test_paste_scales_segs_of_another_size(ref_image: Any) -> None:
    small = Segs((20, 20), (seg((5, 5, 10, 15), 1),))
    large = Segs((40, 60), (seg((15, 10, 30, 30), 1),))
    found, expected = (paste(PIXELS, segs, ref_image=ref_image) for segs in (small, large))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"feather": -1}, "feather: too small"), ({"alpha": 256}, "alpha: too large .*0 … 255")],
)
def test_paste_refuses_options_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        paste(PIXELS, Segs((40, 60)), **options)


@pytest.mark.filterwarnings("ignore:the SEGS are of a picture")
def test_scaling_truncates_boxes_by_their_own_ratio() -> None:
    segs = Segs((100, 200), (replace(seg((0, 0, 60, 70), 0.5), bbox=(10, 12, 51, 63)),))
    (scaled,) = scaled_to(segs, (150, 500))
    assert scaled.bbox == (25, 18, 127, 94)
    assert scaled.crop_region == (0, 0, 150, 105)
    assert scaled.mask.shape == (105, 150)
    assert scaled.image is not None
    assert scaled.image.shape == (105, 150, 3)


@pytest.mark.filterwarnings("ignore:the SEGS are of a picture")
def test_scaling_to_the_same_size_or_of_nothing() -> None:
    segs = Segs((40, 60), (seg((0, 0, 9, 9)),))
    assert scaled_to(segs, (40, 60)) is segs
    assert scaled_to(Segs((40, 60)), (7, 5)).size == (7, 5)


@pytest.mark.parametrize("form", ["array", "image", "path", "text", "bytes"])
def test_scaling_to_a_picture(form: str, tmp_path: Path) -> None:
    segs = Segs((40, 60), (seg((0, 0, 10, 10)),))
    image = Image.new("RGB", (120, 80))
    path = tmp_path / "picture.png"
    image.save(path)
    pictures: dict[str, Any] = {
        "array": np.asarray(image), "image": image, "path": path, "text": str(path),
        "bytes": path.read_bytes(),
    }  # fmt: skip
    scaled = scaled_to(segs, pictures[form])
    assert (scaled.size, scaled[0].crop_region) == ((80, 120), (0, 0, 20, 20))


def test_scaling_refuses_what_vanishes() -> None:
    segs = Segs((40, 60), (seg((0, 0, 60, 40)), seg((0, 0, 1, 20))))
    with pytest.raises(InvalidRequest, match=r"segs\.items\.1\.bbox: nothing is left"):
        scaled_to(segs, (20, 30))
    with pytest.raises(InvalidRequest, match="size: not a size"):
        scaled_to(segs, (0, 30))
