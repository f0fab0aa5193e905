"""Decoding, its refusals, and the way between pixels and values."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from preprocessing.images import encode, open_picture, read_buffer
from request_plan.limits import Limits
from segs_client.arrays import ByteArray
from segs_client.colors import ColorOption
from segs_client.contract import Buffer, ContractError, ImageInput
from tests import icc

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def flat(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(data, dtype=np.uint8)


def decode_file(data: bytes) -> ByteArray:
    return open_picture(flat(data), ImageInput()).read()[0]


def file_of(form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, form, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_lossless_encodings(encoding: str) -> None:
    form = ImageInput(encoding="raw", shape=(7, 5, 3)) if encoding == "raw" else ImageInput()
    assert np.array_equal(open_picture(encode(PIXELS, encoding, 95), form).read()[0], PIXELS)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_lossy_encodings_keep_the_picture(encoding: str) -> None:
    smooth = np.full((64, 64, 3), 100, dtype=np.uint8)
    decoded = decode_file(encode(smooth, encoding, 95).tobytes())  # type: ignore[arg-type]
    assert np.abs(decoded.astype(int) - 100).max() <= 2


def test_grey_and_transparent_files_become_rgb() -> None:
    for mode in ("L", "RGBA", "P"):
        out = io.BytesIO()
        Image.fromarray(PIXELS).convert(mode).save(out, "png")
        assert decode_file(out.getvalue()).shape == (7, 5, 3)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_file_is_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(form, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    opened = open_picture(flat(data), ImageInput())
    assert opened.size == (upright.height, upright.width)
    assert np.array_equal(opened.read()[0], np.asarray(upright))


def test_limits_hold_for_the_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of("png", exif=exif)
    with pytest.raises(ContractError, match=r"too large .*7×5"):
        open_picture(flat(data), ImageInput(), Limits(max_picture_pixels=34))


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("profile", [icc.rgb(), icc.rgb(200_000), None])
def test_a_profile_goes_in_and_out(form: str, profile: bytes | None) -> None:
    pixels, read = open_picture(flat(file_of(form, icc_profile=profile)), ImageInput()).read()
    assert read == profile
    written = encode(pixels, form, 95, read).tobytes()  # type: ignore[arg-type]
    assert Image.open(io.BytesIO(written)).info.get("icc_profile") == profile


@pytest.mark.parametrize("name", [*icc.BROKEN, *icc.UNUSABLE])
@pytest.mark.parametrize("color", ["keep", "srgb"])
def test_a_broken_profile_fails_no_request(name: str, color: ColorOption) -> None:
    profile = {**icc.BROKEN, **icc.UNUSABLE}[name]
    opened = open_picture(flat(file_of("png", icc_profile=profile)), ImageInput())
    pixels, read = opened.read(color)
    assert np.array_equal(pixels, PIXELS)
    assert read is None


def test_raw_pixels_have_no_profile() -> None:
    opened = open_picture(PIXELS.reshape(-1), ImageInput(encoding="raw", shape=(7, 5, 3)))
    assert opened.read("srgb")[1] is None
    assert opened.profile_bytes == 0


def test_sixteen_bits_of_grey_become_eight() -> None:
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 256, 0x8000, 0xFFFF]], dtype=np.uint16)).save(out, "png")
    assert decode_file(out.getvalue())[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable picture"),
        (b"hello", "not a readable picture"),
        (png_header(40_000, 40_000), "too"),
        (png_header(20_000, 10), "too large"),
        (png_header(100, 100), "truncated"),
    ],
)
def test_bad_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ContractError, match=message) as refusal:
        decode_file(data)
    assert refusal.value.detail.field == "image"
    assert refusal.value.detail.allowed


def test_other_formats_are_refused() -> None:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "bmp")
    with pytest.raises(ContractError, match="not a readable picture"):
        decode_file(out.getvalue())


def test_a_truncated_file_is_refused() -> None:
    data = encode(np.tile(PIXELS, (40, 40, 1)), "png", 95).tobytes()
    with pytest.raises(ContractError, match="truncated"):
        decode_file(data[: len(data) // 2])


def test_raw_pixels_must_fill_their_shape() -> None:
    with pytest.raises(ContractError, match="bytes"):
        open_picture(PIXELS.reshape(-1)[:-1], ImageInput(encoding="raw", shape=(7, 5, 3)))


def test_buffers_are_read_from_their_place() -> None:
    values = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    tensor = flat(b"abc" + values.tobytes())
    read = read_buffer(tensor, Buffer(offset=3, length=24, shape=(2, 3)), "mask")
    assert np.array_equal(read, values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, 1.1])
def test_values_out_of_range_are_refused(bad: float) -> None:
    values = np.full((2, 2), bad, dtype=np.float32)
    with pytest.raises(ContractError, match="values out of range"):
        read_buffer(flat(values.tobytes()), Buffer(length=16, shape=(2, 2)), "mask")


def test_a_buffer_outside_its_tensor_is_refused() -> None:
    with pytest.raises(ContractError, match="ends at byte 16") as refusal:
        read_buffer(flat(bytes(15)), Buffer(length=16, shape=(2, 2)), "segs.items.0.mask")
    assert refusal.value.detail.field == "segs.items.0.mask"
