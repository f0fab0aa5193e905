"""Builders and parsers: what is sent, bit for bit, and what is read back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_files import FOLLOWED
from PIL import Image

from segs_client import InvalidRequest, PasteOptions, Seg, Segs, ServerError
from segs_client.arrays import ByteArray, decode, resize_bilinear
from segs_client.contract import Buffer, ContractError, parse_request
from segs_client.messages import BuiltRequest, build, parse
from segs_client.pictures import read_pixels

RANDOM = np.random.default_rng(1)
PIXELS = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
BOX = [(2, 3, 12, 13)]
REGION = (0, 0, 8, 6)
EMPTY = np.empty(0, np.uint8)


def file_of(picture: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def masks_of(built: BuiltRequest) -> list[Any]:
    request = parse_request(built.request.model_dump_json())  # as the server reads it
    tensor = built.masks
    assert tensor is not None
    return [decode(item.mask, tensor, "mask") for item in request.segs.items if item.mask]


@pytest.mark.parametrize(
    ("mask", "encoding"),
    [
        (np.zeros((6, 8)), "uint8"),
        (RANDOM.integers(0, 256, (6, 8), np.uint8), "uint8"),
        (np.arange(48).reshape(6, 8).astype(np.float32) / np.float32(255), "uint8"),
        (RANDOM.random((6, 8)), "float32"),
        (np.full((6, 8), 0.5), "float32"),
        (np.full((6, 8), -0.0), "float32"),  # another bit pattern than 0
        (np.full((6, 8), 1e-40), "float32"),
        (np.full((6, 8), np.nextafter(np.float32(1), np.float32(0))), "float32"),
    ],
)
def test_masks_arrive_bit_for_bit(mask: Any, encoding: str) -> None:
    seg = Seg(mask, REGION, REGION)
    other = Seg(np.ones((6, 8)), REGION, REGION)
    built = build(PIXELS, Segs((20, 30), (other, seg)), pipeline="base")
    assert [item.mask.encoding for item in built.request.segs.items if item.mask][1] == encoding
    first, second = masks_of(built)
    assert (first == 1).all()
    np.testing.assert_array_equal(second.view(np.uint32), seg.mask.view(np.uint32))


def test_all_byte_values_survive_as_bytes() -> None:
    floats = np.arange(256, dtype=np.float32).reshape(16, 16) / np.float32(255)
    region = (0, 0, 16, 16)
    built = build(PIXELS, Segs((20, 30), (Seg(floats, region, region),)), pipeline="base")
    assert built.masks is not None
    np.testing.assert_array_equal(built.masks, np.arange(256))


def test_given_crops_are_sent() -> None:
    crop = RANDOM.random((6, 8, 3)).astype(np.float32)
    seg = Seg(np.ones((6, 8)), REGION, REGION, confidence=0.5, label="hand", image=crop)
    built = build(PIXELS, Segs((20, 30), (seg,)), pipeline="base")
    item = built.request.segs.items[0]
    assert (item.label, item.confidence) == ("hand", 0.5)
    assert item.image is not None
    assert built.seg_images is not None
    np.testing.assert_array_equal(decode(item.image, built.seg_images, "image"), crop)


TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {
    "PNG": file_of(PICTURE, "PNG"),
    "JPEG": file_of(PICTURE, "JPEG"),
    "WebP": file_of(PICTURE, "WEBP"),
    "PNG with alpha": file_of(PICTURE.convert("RGBA"), "PNG"),
    "grey PNG of 16 bits": file_of(Image.fromarray(PIXELS[..., 0].astype(np.uint16)), "PNG"),
    "palette": file_of(PICTURE.quantize(), "PNG"),
    "CMYK": file_of(PICTURE.convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("as_path", [False, True])
def test_files_are_sent_untouched(form: str, as_path: bool, tmp_path: Path) -> None:
    data = FILES[form]
    path = tmp_path / "picture"
    path.write_bytes(data)
    built = build(path if as_path else data, BOX, pipeline="base")
    assert built.image.tobytes() == data
    assert built.request.image.encoding == "file"
    assert built.image_size == (20, 30)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_boxes_are_of_the_upright_file(form: str) -> None:
    built = build(file_of(PICTURE, form, exif=TURNED), BOX, pipeline="base")
    assert built.request.image.encoding == "file"
    assert built.image_size == (30, 20)
    assert built.request.segs.size == (30, 20)


@pytest.mark.parametrize("name", FOLLOWED)
def test_files_are_sent_up_to_the_end_of_their_picture(name: str) -> None:
    data = FOLLOWED[name]()
    sent = build(data, BOX, pipeline="base").image.tobytes()
    assert data.startswith(sent)
    assert len(sent) < len(data)
    np.testing.assert_array_equal(read_pixels(sent), read_pixels(data))
    first = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(read_pixels(first), read_pixels(data))


@pytest.mark.parametrize(
    ("picture", "pixels"),
    [
        (PIXELS, PIXELS),
        (PIXELS[:, ::-1], PIXELS[:, ::-1]),
        (PICTURE, PIXELS),
        (PICTURE.convert("RGBA"), PIXELS),
        (PIXELS / 255 + 1e-4, PIXELS),
        (np.full((2, 2, 3), 0.999), np.full((2, 2, 3), 254)),  # truncated, not rounded
        (file_of(PICTURE, "BMP"), PIXELS),
        (file_of(PICTURE, "TIFF", exif=TURNED), np.rot90(PIXELS, -1)),
        (Image.open(io.BytesIO(file_of(PICTURE, "PNG", exif=TURNED))), np.rot90(PIXELS, -1)),
    ],
)
def test_all_else_is_sent_as_raw_pixels(picture: Any, pixels: Any) -> None:
    built = build(picture, [(0, 0, 1, 1)], pipeline="base")
    shape = built.request.image.shape
    assert shape is not None
    np.testing.assert_array_equal(built.image.reshape(shape), pixels)


ANIMATED = file_of(PICTURE, "GIF", save_all=True, append_images=[PICTURE.rotate(90)])


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (b"no picture", "image: not a readable picture; allowed: PNG, JPEG, WebP"),
        (file_of(PICTURE.convert("RGBA"), "PNG")[:200], "truncated or broken; allowed: a whole"),
        (ANIMATED, "more than one picture .*2 frames"),
        (file_of(PICTURE, "WEBP", save_all=True, append_images=[PICTURE.rotate(9)]), "animated"),
        (b"P5 16300 12200 255\n", "too large: .*198860000 pixels"),
    ],
)
def test_bad_pictures(picture: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        build(picture, BOX, pipeline="base")
    assert caught.value.field == "image"


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        build(tmp_path / "none.png", BOX, pipeline="base")


def test_options_reach_the_request() -> None:
    built = build(
        PIXELS,
        BOX,
        pipeline="base",
        prompt="p",
        steps=3,
        paste=PasteOptions(feather=1),
        output={"seg_images": "png"},
    )
    request = built.request
    assert (request.prompt, request.steps, request.paste.feather) == ("p", 3, 1)
    assert request.output.seg_images == "png"
    assert request.segs.size == (20, 30)
    assert built.masks is None
    assert built.seg_images is None


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"guidesize": 3}, "guidesize", "unknown option; allowed: closest is 'guide_size' among"),
        ({"version": 1}, "version", "unknown option"),
        ({"steps": 0}, "steps", "too small .*1 … 10000"),
        ({"output": {"image": "gif"}}, "output.image", "unknown value .*'png'"),
        ({"pipeline": "a b"}, "pipeline", "malformed"),
    ],
)
def test_bad_options(options: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        build(PIXELS, BOX, **{"pipeline": "base", **options})
    assert caught.value.field == field


@pytest.mark.parametrize("boxes", [[(0, 0, 0, 5)], [(0, 0, 5)], [(0.5, 0, 1, 5)], [5]])
def test_bad_boxes(boxes: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"segs\.items\.0\.bbox"):
        build(PIXELS, boxes, pipeline="base")


def test_boxes_may_be_an_array() -> None:
    built = build(PIXELS, np.array(BOX, np.float32), pipeline="base")
    assert built.request.segs.items[0].bbox == BOX[0]


def report_of(**changes: Any) -> str:
    seg = {"index": 0, "status": "enhanced", "bbox": [2, 3, 12, 13], "crop_region": [0, 0, 30, 20],
           "label": "face", "confidence": 0.25, **changes.pop("seg", {})}  # fmt: skip
    image = {"encoding": "raw", "shape": [20, 30, 3]}
    return json.dumps({"pipeline": "base", "image": image, "segs": [seg], "times_s": {}, **changes})


def answer(built: BuiltRequest, data: bytes, crops: ByteArray = EMPTY, **changes: Any) -> Any:
    return parse(built, report_of(**changes), np.frombuffer(data, np.uint8), crops, EMPTY)


@pytest.mark.parametrize("form", ["png", "webp", "jpeg", "raw"])
def test_parse_every_form(form: str) -> None:
    built = build(PIXELS, BOX, pipeline="base")
    options = {"webp": {"lossless": True}, "jpeg": {"quality": 95}}.get(form, {})
    data = PIXELS.tobytes() if form == "raw" else file_of(PICTURE, form, **options)
    result = answer(built, data, image={"encoding": form, "shape": [20, 30, 3]})
    assert (result.image.mode, result.image.size) == ("RGB", (30, 20))
    if form != "jpeg":
        np.testing.assert_array_equal(np.asarray(result.image), PIXELS)


def test_parse_without_a_picture() -> None:
    built = build(PIXELS, BOX, pipeline="base")
    result = answer(built, b"", image={"encoding": "none", "shape": [20, 30, 3]})
    assert result.image is None
    assert result.segs.size == (20, 30)


def test_failed_segs_are_named() -> None:
    built = build(PIXELS, BOX, pipeline="base")
    assert answer(built, PIXELS.tobytes()).failed == ()
    error = {"code": "INTERNAL", "message": "internal error", "incident": "12"}
    result = answer(built, PIXELS.tobytes(), seg={"status": "failed", "error": error})
    (failed,) = result.failed
    assert (failed.index, failed.error.incident) == (0, "12")


def test_boxes_come_back_as_segs_with_filled_masks() -> None:
    result = answer(build(PIXELS, BOX, pipeline="base"), PIXELS.tobytes())
    (seg,) = result.segs
    assert (seg.label, seg.confidence, seg.image) == ("face", 0.25, None)
    expected = np.zeros((20, 30))
    expected[3:13, 2:12] = 1
    np.testing.assert_array_equal(seg.mask, expected)


def test_masks_of_scaled_segs_are_resized() -> None:
    seg = Seg(RANDOM.random((10, 15)), (1, 1, 5, 5), (0, 0, 15, 10))
    built = build(PIXELS, Segs((10, 15), (seg,)), pipeline="base")
    result = answer(built, PIXELS.tobytes())
    np.testing.assert_array_equal(result.segs[0].mask, resize_bilinear(seg.mask, 20, 30))


def test_masks_of_grown_regions_stay_where_they_are() -> None:
    seg = Seg(RANDOM.random((4, 5)), (2, 2, 5, 5), (2, 2, 7, 6))
    built = build(PIXELS, Segs((10, 15), (seg,)), pipeline="base", shapes="throughput")
    (grown,) = answer(built, PIXELS.tobytes(), seg={"crop_region": [1, 4, 16, 14]}).segs
    expected = np.zeros((10, 15), np.float32)
    expected[0:8, 3:13] = resize_bilinear(seg.mask, 8, 10)
    np.testing.assert_array_equal(grown.mask, expected)


@pytest.mark.parametrize("encoding", ["float32", "uint8", "png"])
def test_detailed_crops(encoding: str) -> None:
    crop = RANDOM.integers(0, 256, (20, 30, 3), np.uint8)
    floats = crop.astype(np.float32) / np.float32(255)
    data = {
        "float32": floats.tobytes(),
        "uint8": crop.tobytes(),
        "png": file_of(Image.fromarray(crop), "PNG"),
    }[encoding]
    tensor = np.frombuffer(b"12345" + data, np.uint8)
    buffer = {"offset": 5, "length": len(data), "shape": [20, 30, 3], "encoding": encoding}
    built = build(PIXELS, BOX, pipeline="base")
    result = answer(built, PIXELS.tobytes(), tensor, seg={"image": buffer})
    np.testing.assert_array_equal(result.segs[0].image, floats)


@pytest.mark.parametrize(
    ("image", "changes"),
    [
        (PIXELS.tobytes()[1:], {}),
        (b"not png", {"image": {"encoding": "png", "shape": [20, 30, 3]}}),
        (file_of(PICTURE, "PNG"), {"image": {"encoding": "png", "shape": [30, 20, 3]}}),
        (PIXELS.tobytes(), {"seg": {"status": "new"}}),
        (PIXELS.tobytes(), {"seg": {"index": 7, "crop_region": [0, 0, 5, 5]}}),
        (PIXELS.tobytes(), {"seg": {"image": {"length": 12, "shape": [2, 2, 3],
                                              "encoding": "uint8"}}}),
    ],
)  # fmt: skip
def test_answers_that_break_the_contract(image: bytes, changes: dict[str, Any]) -> None:
    seg = Seg(np.ones((6, 8)), REGION, REGION)
    built = build(PIXELS, Segs((20, 30), (seg,)), pipeline="base")
    with pytest.raises(ServerError, match="breaks the contract"):
        answer(built, image, **changes)


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (PICTURE, "announced .*RGB 20×30"),
        (Image.new("L", (3, 3)), "not the picture that was announced .*L 3×3.*L 4×4"),
        (None, "not a readable picture; allowed: a PNG file"),
    ],
)
def test_decode_refuses_another_png(picture: Image.Image | None, words: str) -> None:
    data = b"nothing" if picture is None else file_of(picture, "PNG")
    buffer = Buffer(length=len(data), shape=(4, 4), encoding="png")
    with pytest.raises(ContractError, match=words):
        decode(buffer, np.frombuffer(data, np.uint8), "segs.items.0.mask")


def test_resize_bilinear_known_values() -> None:
    corners = np.array([[0, 1], [1, 0]], np.float32)
    expected = [[0, 0.25, 0.75, 1], [0.25, 0.375, 0.625, 0.75]]
    np.testing.assert_allclose(resize_bilinear(corners, 4, 4)[:2], expected)
    np.testing.assert_array_equal(resize_bilinear(corners, 2, 2), corners)
