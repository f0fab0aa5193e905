"""Arrays and PIL pictures of every kind become pixels and masks, or are refused by their values."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensors import Tensor

from segs_client import InvalidRequest, Seg, Segs
from segs_client.contract import ContractError
from segs_client.conversions import as_array, as_number, to_mode
from segs_client.messages import build
from segs_client.pictures import open_upright, picture_size, read_picture
from segs_client.tools import intersected, subtracted
from segs_client.unit_floats import as_unit_floats, mask_levels

PIXELS = np.random.default_rng(2).integers(0, 256, (4, 6, 3), np.uint8)
PIXELS[0, :2] = [[255] * 3, [0] * 3]
GREY = PIXELS[..., 0]
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("picture", "pixels"),
    [
        (PIXELS, PIXELS),
        (PIXELS[None], PIXELS),
        (np.dstack([PIXELS, GREY]), PIXELS),
        (GREY, GREY_RGB),
        (GREY[..., None], GREY_RGB),
        (Tensor(PIXELS), PIXELS),
        (PIXELS / 255, PIXELS),
        (PIXELS.astype(np.float16) / np.float16(256) + np.float16(0.002), PIXELS),
        (PIXELS.astype(np.int32), PIXELS),
        (PIXELS.astype(np.int64), PIXELS),
        (PIXELS.astype(np.uint16), PIXELS),
        (PIXELS.astype(np.uint16) * 257, PIXELS),
        (GREY > 99, (GREY_RGB > 99) * np.uint8(255)),
        (np.array([[[-0.3, 0.5, 1.3]]]), [[[0, 127, 255]]]),
        (np.full((2, 2, 3), 0.999), np.full((2, 2, 3), 254)),  # truncated, not rounded
    ],
)
def test_arrays_of_a_picture(picture: Any, pixels: Any) -> None:
    read, profile = read_picture(picture)
    np.testing.assert_allclose(read, pixels, atol=1 if picture is not PIXELS else 0)
    assert profile is None
    assert picture_size(picture) == read.shape[:2]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (PIXELS.astype(np.float32), r"values from 0 to 255; allowed: 0 … 1 .*x / 255"),
        (PIXELS / 127.5 - 1, r"values from -1 to 1; .*\(x \+ 1\) / 2"),
        (np.full((4, 4, 3), 1.31), "values from 1.31 to 1.31"),
        (np.full((4, 4, 3), np.nan), "not finite"),
        (np.full((4, 4, 3), -np.inf), "not finite"),
        (PIXELS.astype(np.int32) * 2, "values from 0 to 510; allowed: 0 … 255; uint16"),
        (PIXELS.astype(np.int16) - 1, "values from -1 to 254"),
        (PIXELS.astype(complex), "wrong dtype .*complex128"),
        (PIXELS.astype(str), "wrong dtype"),
        (np.stack([PIXELS, PIXELS]), r"wrong shape \(got \[2, 4, 6, 3\]\).* one picture"),
        (np.moveaxis(PIXELS, 2, 0), r"wrong shape \(got \[3, 4, 6\]\).*channels last"),
        (np.zeros((4, 4, 2)), "wrong shape"),
        (np.zeros((0, 4, 3)), "wrong shape"),
        (np.zeros(4), "wrong shape"),
        (np.zeros(()), "wrong shape"),
        (np.zeros((0, 0)), "wrong shape"),
        ([[1, 2]], "not a picture .*list"),
        (5, "not a picture .*int.*a PIL image, a numpy array"),
    ],
)
def test_arrays_that_are_no_picture(picture: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        build(picture, [(0, 0, 1, 1)], pipeline="base")
    assert caught.value.field == "image"


@pytest.mark.parametrize(
    ("picture", "levels"),
    [
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (Image.fromarray(GREY.astype(np.int32)), GREY),
        (Image.fromarray(GREY.astype(np.int32) * 257), GREY),
        (Image.fromarray(GREY.astype(np.float32) / 255), GREY),
        (Image.fromarray(GREY > 99), (GREY > 99) * np.uint8(255)),
    ],
    ids=["L", "I;16", "I, 8 bit", "I, 16 bit", "F", "1"],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_modes_of_pillow(picture: Image.Image, levels: Any, mode: Any) -> None:
    read = np.asarray(to_mode(picture, mode))
    np.testing.assert_allclose(read if mode == "L" else read[..., 2], levels, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "RGBX", "RGBa", "YCbCr", "HSV", "CMYK"])
def test_colour_modes_of_pillow(mode: str) -> None:
    opaque = Image.fromarray(PIXELS).convert("RGBA")
    picture = opaque.convert(mode) if mode == "RGBa" else Image.fromarray(PIXELS).convert(mode)
    difference = np.asarray(to_mode(picture, "RGB")).astype(int) - PIXELS
    assert np.abs(difference).max() <= (0 if mode.startswith("RGB") else 12)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Image.fromarray(np.array([[0, 70_000]], np.int32)), "values from 0 to 70000"),
        (Image.fromarray(np.array([[-1, 5]], np.int32)), "values from -1 to 5"),
        (Image.fromarray(np.array([[0, 255]], np.float32)), "values from 0 to 255.*x / 255"),
        (Image.new("La", (2, 2)), "wrong mode .*La"),
    ],
)
def test_modes_of_pillow_that_cannot_be_read(picture: Image.Image, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        build(picture, [(0, 0, 1, 1)], pipeline="base")


BINARY = np.array([[0, 1, 1], [1, 0, 0]])


def seg_mask(mask: Any) -> Any:
    return Seg(mask, (0, 0, 3, 2), (0, 0, 3, 2)).mask


def of_from_mask(mask: Any) -> Any:
    return Segs.from_mask(mask, combined=True, crop_factor=9)[0].mask


def of_from_masks(mask: Any) -> Any:
    return Segs.from_masks([mask], combined=True, crop_factor=9)[0].mask


def of_prompt(mask: Any) -> Any:
    built = build(np.zeros((2, 3, 3)), [(0, 0, 3, 2)], pipeline="base",
                  prompts=[{"text": "a", "mask": mask}])  # fmt: skip
    assert built.masks is not None
    return built.masks.reshape(2, 3) / 255


def of_intersected(mask: Any) -> Any:
    return intersected(Segs.from_boxes([(0, 0, 3, 2)], (2, 3)), mask)[0].mask


def of_subtracted(mask: Any) -> Any:
    return 1 - subtracted(Segs.from_boxes([(0, 0, 3, 2)], (2, 3)), mask)[0].mask


PLACES = [seg_mask, of_from_mask, of_from_masks, of_prompt, of_intersected, of_subtracted]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("mask", "values"),
    [
        (BINARY.astype(np.uint8), BINARY),
        (BINARY.astype(np.int64), BINARY),
        (BINARY.astype(bool), BINARY),
        (BINARY.astype(float), BINARY),
        (BINARY.astype(np.uint8) * 255, BINARY),
        (BINARY.astype(np.int32) * 255, BINARY),
        (BINARY.astype(np.uint16) * 65_535, BINARY),
        (BINARY.astype(np.uint8) * 51, BINARY * 0.2),
        (BINARY[None] * 0.2, BINARY * 0.2),
        (BINARY[..., None].astype(np.uint8), BINARY),
        (Tensor(BINARY), BINARY),
        (Image.fromarray(BINARY.astype(bool)), BINARY),
        (Image.fromarray(BINARY.astype(np.uint8)), BINARY),
        (Image.fromarray(BINARY.astype(np.uint8) * 51), BINARY * 0.2),
        (BINARY.tolist(), BINARY),
    ],
)
def test_a_mask_of_any_dtype_means_the_same_everywhere(place: Any, mask: Any, values: Any) -> None:
    np.testing.assert_allclose(place(mask), values, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("beyond", [1e-7, 2e-7, 9e-4])
def test_floats_beyond_by_rounding_are_clipped(dtype: Any, beyond: float) -> None:
    values = np.array([[-beyond, 0.5, 1 + beyond]], dtype)
    np.testing.assert_array_equal(as_unit_floats(values, "mask", 2), np.float32([[0, 0.5, 1]]))
    assert values[0, 0] < 0  # the caller's own stay
    assert np.signbit(as_unit_floats(np.array([[-0.0]]), "mask", 2)).all()  # and what is in range
    with pytest.raises(ContractError, match=r"values from -0\.01 to 0\.5"):
        as_unit_floats(np.array([[-0.01, 0.5]]), "mask", 2)
    with pytest.raises(ContractError, match=r"values from 0\.5 to 1\.002"):
        as_unit_floats(np.array([[0.5, 1.002]]), "mask", 2)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array([[0.5]]), Tensor([0.5])])
def test_numbers_of_any_kind(value: Any) -> None:
    number = as_number(value, "confidence")
    assert (number, type(number)) == (0.5, float)


@pytest.mark.parametrize("value", ["0.5", None, [], [0.5, 0.5], float("nan"), float("inf"), 1j])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(ContractError, match="confidence: not a number"):
        as_number(value, "confidence")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_mask_may_be_a_file(place: Any, kind: Any, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(BINARY.astype(np.uint8) * 51).save(path)
    np.testing.assert_allclose(place(kind(path)), BINARY * 0.2, atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (BINARY * 255.0, "values from 0 to 255.*divide values of 0 … 255 by 255"),
        (BINARY * 300, "values from 0 to 300"),
        (-BINARY, "values from -1 to 0"),
        (BINARY * np.nan, "not finite"),
        (BINARY.astype(complex), "wrong dtype"),
        (np.stack([BINARY, BINARY]), r"wrong shape \(got \[2, 2, 3\]\)|2 masks given; allowed: 1"),
        (np.dstack([BINARY] * 4), r"wrong shape \(got \[2, 3, 4\]\)"),
        ([[0, 1], [1]], "not an array"),
        (np.zeros((0, 3)), "wrong shape"),
    ],
)
def test_masks_that_are_refused(place: Any, mask: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        place(mask)
    assert caught.value.field == ("masks.0" if place is of_from_masks else "mask")


def test_a_crop_of_dark_pixels_is_not_a_mask() -> None:
    dark = np.ones((2, 3, 3), np.uint8)
    np.testing.assert_array_equal(as_unit_floats(dark, "image", 3), np.float32(1) / np.float32(255))


ALPHA = np.array([[0, 200, 255], [0, 0, 9]], np.uint8)


def transparent(colours: Any, mode: str = "RGBA") -> Image.Image:
    pixels = np.dstack([np.broadcast_to(np.asarray(colours, np.uint8), (2, 3, 3)), ALPHA])
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return picture if mode == "RGBA" else picture.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour", [0, 255, 77])
def test_one_colour_leaves_the_mask_to_the_alpha(mode: str, colour: int) -> None:
    np.testing.assert_array_equal(mask_levels(transparent(colour, mode), "mask"), ALPHA)


def test_what_is_invisible_has_no_colour() -> None:
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[ALPHA > 0] = 255  # a white shape on transparent black
    np.testing.assert_array_equal(mask_levels(transparent(colours), "mask"), ALPHA)


def test_a_palette_may_be_transparent() -> None:
    picture = Image.fromarray(BINARY.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.info["transparency"] = 0
    np.testing.assert_array_equal(mask_levels(picture, "mask"), BINARY * 255)


def test_a_sideways_mask_keeps_its_transparency() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.new("L", (3, 2), 7).save(data, "PNG", exif=exif, transparency=7)
    for source in (data.getvalue(), Image.open(data)):
        upright = open_upright(source)
        assert upright.size == (2, 3)
        assert upright.info["transparency"] == 7


@pytest.mark.parametrize("alpha", [0, 100, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_constant_alpha_leaves_the_mask_to_the_levels(alpha: int, mode: str) -> None:
    levels = Image.fromarray(BINARY.astype(np.uint8) * 255)
    picture = levels.convert("RGB")
    picture.putalpha(alpha)
    np.testing.assert_array_equal(mask_levels(picture.convert(mode), "mask"), BINARY * 255)


def test_colours_and_alpha_that_both_vary_are_refused() -> None:
    with pytest.raises(
        ContractError, match=r"mask\.png: both its colours and its transparency vary"
    ):
        mask_levels(transparent(PIXELS[:2, :3]), "mask.png")


def test_a_tensor_of_bfloat16_is_read() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([[0, 1], [0.5, 0.25]], dtype=torch.bfloat16)
    np.testing.assert_array_equal(as_array(tensor, "mask"), [[0, 1], [0.5, 0.25]])
