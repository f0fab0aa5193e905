"""Which profile a picture's values have: kept, converted, or of no use."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from bad_files import picture, saved
from PIL import Image, ImageCms

from segs_client import compare_image, paste
from segs_client.colors import kept_profile, srgb, to_rgb
from segs_client.contract import ImageReport
from segs_client.messages import build
from segs_client.picture_files import inspect
from segs_client.pictures import decode_picture, open_upright, read_picture
from segs_client.segs import Segs
from segs_client.tools import preview_image
from tests import icc

PICTURE = picture()
PIXELS = np.asarray(PICTURE)
FORMS: dict[str, dict[str, Any]] = {"png": {}, "webp": {"lossless": True}}


def converted(profile: bytes, image: Image.Image = PICTURE) -> np.ndarray[Any, Any]:
    """By LittleCMS with its own defaults but the intent."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    made = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), intent, outputMode="RGB"
    )
    assert made is not None
    return np.asarray(made)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["file", "PIL"])
def test_a_profile_of_rgb_is_kept_with_its_values(form: str, how: str) -> None:
    data = saved(form, icc_profile=icc.rgb(), **FORMS[form])
    source = data if how == "file" else Image.open(io.BytesIO(data))
    pixels, profile = read_picture(source)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert profile == icc.rgb()
    assert build(source, [(0, 0, 9, 9)], pipeline="base").profile == icc.rgb()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["file", "PIL"])
def test_srgb_converts_by_the_profile(form: str, how: str) -> None:
    data = saved(form, icc_profile=icc.rgb(), **FORMS[form])
    source = data if how == "file" else Image.open(io.BytesIO(data))
    pixels, profile = read_picture(source, "srgb")
    difference = np.abs(pixels.astype(int) - converted(icc.rgb()))
    assert difference.max() <= 1
    assert np.abs(pixels.astype(int) - PIXELS).max() > 20
    assert profile is None


@pytest.mark.parametrize("output", [{"color": "srgb"}, {"color": "srgb", "image": "raw"}])
def test_the_client_converts_what_it_sends_as_pixels(output: dict[str, str]) -> None:
    image = PICTURE.copy()
    image.info["icc_profile"] = icc.rgb()
    built = build(image, [(0, 0, 9, 9)], pipeline="base", output=output)
    sent = built.image.reshape(PIXELS.shape).astype(int)
    assert np.abs(sent - converted(icc.rgb())).max() <= 1
    assert built.profile is None


@pytest.mark.parametrize("color", ["keep", "srgb"])
def test_grey_and_cmyk_become_srgb_by_their_profiles(color: Any) -> None:
    for mode, profile in (("L", icc.grey()), ("CMYK", icc.cmyk())):
        image = PICTURE.convert(mode)
        made, kept = to_rgb(image, profile, color)
        assert np.abs(np.asarray(made).astype(int) - converted(profile, image)).max() <= 1
        assert np.abs(np.asarray(made).astype(int) - np.asarray(image.convert("RGB"))).max() > 20
        assert kept is None


def test_a_cmyk_file_is_read_by_its_profile() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    data = saved("jpeg", cyan, quality=95, icc_profile=icc.cmyk())
    red, green, blue = read_picture(data)[0][8, 8]
    assert red < 60  # by Pillow alone it is 0, 255, 255
    assert 100 < green < 200
    assert 170 < blue < 240
    assert read_picture(saved("jpeg", cyan, quality=95))[0][8, 8].tolist() == [0, 255, 255]


@pytest.mark.parametrize("color", ["keep", "srgb"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("name", [*icc.BROKEN, *icc.UNUSABLE])
def test_a_profile_of_no_use_is_dropped(name: str, mode: str, color: Any) -> None:
    image = PICTURE.convert(mode)
    made, kept = to_rgb(image, {**icc.BROKEN, **icc.UNUSABLE}[name], color)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(image.convert("RGB")))
    assert kept is None


def test_a_profile_that_is_kept_is_judged_by_its_header_alone() -> None:
    profile = icc.profile(b"RGB ", {})  # without primaries
    assert to_rgb(PICTURE, profile, "keep")[1] == profile
    made, kept = to_rgb(PICTURE, profile, "srgb")
    np.testing.assert_array_equal(np.asarray(made), PIXELS)
    assert kept is None


def test_chains_of_elements_are_not_run() -> None:
    """50,000 of them would take LittleCMS a minute, and make the picture black."""
    made, _ = to_rgb(PICTURE, icc.elements(50_000), "srgb")
    plain, _ = to_rgb(PICTURE, icc.rgb(), "srgb")
    np.testing.assert_array_equal(np.asarray(made), np.asarray(plain))
    assert to_rgb(PICTURE, icc.elements(50_000), "keep")[1] == icc.elements(50_000)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [("L", icc.rgb()), ("CMYK", icc.rgb()), ("RGB", icc.grey()), ("RGB", icc.cmyk())],
)
def test_a_profile_of_other_colours_is_dropped(mode: str, profile: bytes) -> None:
    image = PICTURE.convert(mode)
    made, kept = to_rgb(image, profile, "keep")
    np.testing.assert_array_equal(np.asarray(made), np.asarray(image.convert("RGB")))
    assert kept is None


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_the_header_tells_whether_the_server_keeps_a_profile(form: str, mode: str) -> None:
    if (form, mode) not in {("png", "CMYK"), ("jpeg", "RGBA"), ("jpeg", "P")}:
        image = PICTURE.convert(mode)
        if form == "webp":
            image = image.convert("RGBA" if mode == "RGBA" else "RGB")
        file = inspect(saved(form, image, icc_profile=icc.rgb()), "image")
        kept = to_rgb(file.decode("image"), file.profile(), "keep")[1]
        assert kept_profile(file.mode, file.profile(), "keep") == kept
        assert (kept is not None) == (file.mode not in ("L", "CMYK"))


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_a_result_has_the_profile_of_what_was_sent(encoding: Any) -> None:
    data = PIXELS.tobytes() if encoding == "raw" else saved("png", icc_profile=icc.grey())
    form = ImageReport(encoding=encoding, shape=(*PIXELS.shape[:2], 3))
    for profile in (icc.rgb(), None):
        result = decode_picture(form, np.frombuffer(data, np.uint8), profile)
        assert result is not None
        assert result.info.get("icc_profile") == profile


def test_tools_keep_the_profile() -> None:
    image = PICTURE.copy()
    image.info["icc_profile"] = icc.rgb()
    segs = Segs.from_boxes([(1, 1, 9, 9)], image)
    assert paste(image, segs).info["icc_profile"] == icc.rgb()
    for masks in (True, False):
        assert preview_image(image, segs, masks=masks).info["icc_profile"] == icc.rgb()


def test_a_comparison_is_in_srgb() -> None:
    before = PICTURE.copy()
    before.info["icc_profile"] = icc.rgb()
    sheet = compare_image(before, srgb(before), [])
    assert "icc_profile" not in sheet.info
    half = sheet.width // 2
    left, right = sheet.crop((0, 40, half, sheet.height)), sheet.crop((half, 40, *sheet.size))
    colours = [{colour for _, colour in part.getcolors(1 << 20) or ()} for part in (left, right)]
    assert colours[0] == colours[1]


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "tiff"])
def test_a_file_is_opened_upright_with_its_profile(form: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = saved(form, icc_profile=icc.rgb(), exif=exif)
    for source in (data, Image.open(io.BytesIO(data))):
        image = open_upright(source)
        assert image.size == (PICTURE.height, PICTURE.width)
        assert image.info["icc_profile"] == icc.rgb()
        assert open_upright(image).size == image.size
        assert read_picture(image)[0].shape == (image.height, image.width, 3)
