"""Orientations and profiles are read as Pillow reads them; what is broken counts as absent."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from bad_files import chunk, picture, png, saved, segment
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from segs_client.picture_files import inspect
from segs_client.picture_metadata import (
    MAX_PROFILE_BYTES,
    joined_profile,
    profile_space,
    read_orientation,
    unpacked_profile,
)
from tests import icc
from tests.cpu import is_cheap

KINDS = ("png", "jpeg", "webp")
LOSSLESS = {"png": {}, "jpeg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}


def exif(orientation: object, **others: str) -> bytes:
    block = Image.Exif()
    block[0x010F] = others.get("make", "a maker with a long name")
    block[0x0112] = orientation
    return block.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_made_upright_as_pillow_does(kind: str, orientation: int) -> None:
    data = saved(kind, exif=exif(orientation), **LOSSLESS[kind])
    file = inspect(data, "image")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert file.size == (upright.height, upright.width)
    decoded = file.decode("image")
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(upright))
    assert "exif" not in decoded.info


def tiff(entries: bytes, count: int, start: int = 8, order: str = ">") -> bytes:
    signature = b"MM\0*" if order == ">" else b"II*\0"
    return signature + struct.pack(f"{order}IH", start, count) + entries


def entry(kind: int, value: bytes, count: int = 1, tag: int = 0x0112) -> bytes:
    return struct.pack(">HHI", tag, kind, count) + value


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (tiff(entry(3, b"\0\6\0\0"), 1), 6),
        (tiff(entry(4, b"\0\0\0\6"), 1), 6),
        (tiff(entry(1, b"\6\0\0\0"), 1), 6),
        (b"Exif\0\0" + tiff(entry(3, b"\0\6\0\0"), 1), 6),
        (tiff(struct.pack("<HHIHH", 0x0112, 3, 1, 8, 0), 1, order="<"), 8),
        (tiff(entry(7, bytes(4), 60_000, 1) + entry(3, b"\0\3\0\0"), 2), 3),  # values lie nowhere
    ],
)
def test_orientations_of_every_form(block: bytes, orientation: int) -> None:
    assert read_orientation(block) == orientation


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"MM\0*",
        b"XX\0*\0\0\0\x08",
        tiff(b"", 0),
        tiff(b"", 65_535),
        tiff(entry(3, b"\0\6\0\0"), 1)[:-6],
        tiff(entry(3, b"\0\6\0\0"), 1, start=2**32 - 1),
        tiff(entry(3, b"\0\6\0\0"), 1, start=70_000),
        tiff(entry(3, b"\0\0\0\0"), 1),
        tiff(entry(3, b"\0\x09\0\0"), 1),
        tiff(entry(4, b"\xff\xff\xff\xff"), 1),
        tiff(entry(2, b"6\0\0\0"), 1),
        tiff(entry(5, b"\0\0\0\6"), 1),
        tiff(entry(3, b"\0\6\0\6", count=2), 1),
        b"MM\0*" + bytes(70_000),
    ],
)
def test_a_broken_orientation_is_none(block: bytes) -> None:
    assert read_orientation(block) == 1
    data = png(*picture().size, rows(), extra=chunk(b"eXIf", block))
    np.testing.assert_array_equal(np.asarray(inspect(data, "image").decode("image")), picture())


def rows() -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(picture()))


TEXTS = st.dictionaries(
    st.sampled_from([0x010E, 0x010F, 0x0110, 0x0131]), st.text("ab", max_size=9)
)


@given(TEXTS, st.integers(1, 8))
def test_orientations_are_those_of_pillow(texts: dict[int, str], orientation: int) -> None:
    block = Image.Exif()
    for tag, text in texts.items():
        block[tag] = text
    block[0x0112] = orientation
    assert read_orientation(block.tobytes()) == orientation


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_any_block_has_an_orientation(data: bytes, start: bytes) -> None:
    assert 1 <= read_orientation(start + data) <= 8


def test_a_block_whose_tags_share_their_values_costs_nothing() -> None:
    """Pillow's parser makes 360 MB of it."""
    entries = b"".join(entry(7, struct.pack(">I", 8), 60_000, tag) for tag in range(1, 5000))
    block = tiff(entries, 4999).ljust(65_530, b"\0")
    assert is_cheap(lambda: read_orientation(block), 40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 200_000])
def test_the_profile_of_a_file_is_found(kind: str, size: int) -> None:
    profile = icc.rgb(size)  # the long one takes several segments of a JPEG
    file = inspect(saved(kind, icc_profile=profile), "image")
    assert file.profile() == profile
    assert profile_space(profile) == "RGB"
    assert "icc_profile" not in file.decode("image").info


@pytest.mark.parametrize("kind", KINDS)
def test_most_files_have_no_profile(kind: str) -> None:
    assert inspect(saved(kind), "image").profile() is None


def parts(*numbers: tuple[int, int]) -> list[bytes]:
    return [bytes(pair) + b"abc" for pair in numbers]


@pytest.mark.parametrize(
    ("found", "joined"),
    [
        (parts((1, 1)), b"abc"),
        ([b"\2\2cd", b"\1\2ab"], b"abcd"),
        ([], None),
        (parts((0, 1)), None),
        (parts((1, 2)), None),
        (parts((1, 2), (1, 2)), None),
        (parts((1, 2), (2, 3)), None),
        (parts((1, 1), (1, 1)), None),
        ([b""], None),
        ([b"\1"], None),
        ([b"\1\1"], None),
        ([bytes((number, 90)) + bytes(60_000) for number in range(1, 91)], None),
    ],
)
def test_segments_of_a_profile(found: list[bytes], joined: bytes | None) -> None:
    assert joined_profile(found) == joined


@pytest.mark.parametrize(
    "content",
    [b"", b"name", b"name\0", b"name\0\0", b"name\0\1x", b"name\0\0no zlib", b"n" * 90 + b"\0\0x"],
)
def test_chunks_without_a_profile(content: bytes) -> None:
    assert unpacked_profile(content) is None
    assert inspect(png(1, 1, bytes(4), extra=chunk(b"iCCP", content)), "image").profile() is None


@pytest.mark.parametrize("name", icc.BROKEN)
def test_broken_profiles_are_of_no_colours(name: str) -> None:
    assert profile_space(icc.BROKEN[name]) is None


@pytest.mark.parametrize("make", [icc.rgb, icc.grey, icc.cmyk])
def test_the_header_has_the_colours(make: Callable[[], bytes]) -> None:
    expected = {icc.rgb: "RGB", icc.grey: "GRAY", icc.cmyk: "CMYK"}[make]
    assert profile_space(make()) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_beyond_the_bound_is_none(kind: str) -> None:
    file = inspect(saved(kind, icc_profile=icc.rgb(MAX_PROFILE_BYTES)), "image")
    found = file.profile()
    assert found is None or profile_space(found) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_profile_beyond_the_bound_takes_no_memory(kind: str) -> None:
    """Not even where it is stored, not packed, in a PNG."""
    size = 8 * MAX_PROFILE_BYTES
    if kind == "png":
        data = png(1, 1, bytes(4), extra=chunk(b"iCCP", b"n\0\0" + zlib.compress(bytes(size), 0)))
    else:
        data = saved(kind, icc_profile=icc.rgb(size if kind == "webp" else 2 * MAX_PROFILE_BYTES))
    file = inspect(data, "image")
    tracemalloc.start()
    try:
        assert file.profile() is None
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_PROFILE_BYTES
    finally:
        tracemalloc.stop()


def test_the_end_of_a_thumbnail_is_not_the_picture_s() -> None:
    whole = saved("jpeg")
    thumbnail = segment(0xE1, b"Exif\0\0" + exif(6) + saved("jpeg", picture().resize((4, 4))))
    file = inspect(whole[:2] + thumbnail + whole[2:] + b"behind", "image")
    assert file.end == len(whole) + len(thumbnail)
    assert file.size == (picture().width, picture().height)
