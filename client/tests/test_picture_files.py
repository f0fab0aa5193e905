"""Files are judged by their structure; what is refused costs nothing, what is taken is as sent."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from bad_files import BOMBS, FOLLOWED, HONEST, REFUSED, SIZE, TOO_LARGE, picture, png, saved
from PIL import Image

from segs_client.arrays import decode
from segs_client.contract import Buffer, ContractError
from segs_client.picture_files import inspect
from tests.cpu import is_cheap

LIMIT = 40
"""Of any refusal, in :func:`is_cheap`'s loops."""


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_whole_picture_is_refused(name: str) -> None:
    make, words = REFUSED[name]
    data = make()

    def refused() -> None:
        with pytest.raises(ContractError, match=words) as refusal:
            inspect(data, "image").decode("image")
        assert refusal.value.detail.field == "image"
        assert refusal.value.detail.allowed

    assert is_cheap(refused, LIMIT)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_the_header_alone_tells_the_size(name: str) -> None:
    data = TOO_LARGE[name]()
    assert is_cheap(lambda: inspect(data, "image"), LIMIT)
    file = inspect(data, "image")
    assert file.size[0] * file.size[1] > 10**8
    with pytest.raises(ContractError, match=f"too large .*{file.size[1]}×{file.size[0]}"):
        file.decode("image")


@pytest.mark.parametrize("name", BOMBS)
def test_what_makes_no_pixels_is_not_unpacked(name: str) -> None:
    data = BOMBS[name]()
    assert is_cheap(lambda: inspect(data, "image").decode("image"), LIMIT)
    assert is_cheap(lambda: inspect(data, "image").profile(), LIMIT)
    assert inspect(data, "image").profile() is None
    decoded = np.asarray(inspect(data, "image").decode("image"))
    assert np.array_equal(decoded, np.asarray(picture()))


@pytest.mark.parametrize("name", HONEST)
def test_pictures_are_as_they_were_sent(name: str) -> None:
    make, tolerance = HONEST[name]
    file = inspect(make(), "image")
    assert file.size == SIZE[::-1]
    decoded = np.asarray(file.decode("image").convert("RGB")).astype(int)
    assert np.abs(decoded - np.asarray(picture())).max() <= tolerance


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_follows_the_first_picture_is_ignored(name: str) -> None:
    data = FOLLOWED[name]()
    file = inspect(data, "image")
    assert file.end < len(data)
    first = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(file.decode("image")), first)
    np.testing.assert_array_equal(
        np.asarray(inspect(data[: file.end], "image").decode("image")), first
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_the_kind_of_pixels_is_told_by_the_header(mode: str) -> None:
    assert inspect(saved("png", picture().convert(mode)), "image").mode == mode


def test_every_cut_of_a_file_is_refused() -> None:
    for kind in ("png", "jpeg", "webp"):
        whole = saved(kind)
        for length in range(len(whole)):
            with pytest.raises(ContractError):
                inspect(whole[:length], "image").decode("image")


def test_rows_that_a_file_lacks_are_black() -> None:
    """Its stream of pixels ends in good order, only too early: nobody else's memory shows."""
    file = inspect(png(100, 100, (b"\0" + b"\xff" * 300) * 50), "image")
    for _ in range(20):
        decoded = np.asarray(file.decode("image"))
        assert decoded[:50].min() == 255
        assert decoded[50:].max() == 0


GREY = saved("png", picture().convert("L"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: saved("png"), "got 'RGB 16×24'"),
        (lambda: png(60_000, 60_000, colour=0), "got 'L 60000×60000'"),
        (lambda: saved("jpeg"), "not a readable picture; allowed: a PNG file"),
        (lambda: GREY[:-12], "truncated"),
        (lambda: b"", "not a readable picture"),
    ],
)
def test_a_mask_is_held_against_its_shape_before_it_is_decoded(
    data: Callable[[], bytes], words: str
) -> None:
    tensor = np.frombuffer(data() or b"\0", np.uint8)
    place = Buffer(length=tensor.size, shape=(SIZE[1], SIZE[0]), encoding="png")
    with pytest.raises(ContractError, match=words) as refusal:
        decode(place, tensor, "segs.items.0.mask")
    assert refusal.value.detail.field == "segs.items.0.mask"


def test_places_may_overlap_and_start_anywhere() -> None:
    tensor = np.arange(10, dtype=np.uint8)
    first = decode(Buffer(length=6, shape=(2, 3), encoding="uint8"), tensor, "mask")
    second = decode(Buffer(offset=4, length=6, shape=(2, 3), encoding="uint8"), tensor, "mask")
    assert first[1, 1] == second[0, 0] == np.float32(4) / np.float32(255)
