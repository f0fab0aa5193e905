"""Pictures from strangers: bombs, and files that are cut short."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from tritonclient.grpc.service_pb2 import ModelInferRequest

from benchmarks.supervised import Supervised
from tests.faults.bench import Bench
from tests.faults.calls import SIDE_PX, infer, require_refused, send, small
from tests.faults.row import Rows, require

ROWS = Rows()

_BOMBS = "Refused as INVALID_ARGUMENT within 2 s, before anything is decoded: no memory is taken"
_MOST_BYTES = 64 << 20
"""What the processes that read pictures may grow by."""
_READERS = ("segs_detailer", "prepare")
_GROWN = "front end and `prepare` grew by"
_FORMATS = ("PNG", "JPEG", "WEBP")


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def _noise(form: str, side_px: int = 200) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def _jpeg(width: int, height: int) -> bytes:
    """A file of 200 px that says it has another size."""
    data = bytearray(_noise("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _webp(width: int, height: int) -> bytes:
    """A lossless file of 200 px that says it has another size, in 14 bits each."""
    out = io.BytesIO()
    Image.new("RGB", (200, 200)).save(out, "WEBP", lossless=True)
    data = bytearray(out.getvalue())
    place = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, place)
    bits = bits >> 28 << 28 | (height - 1) << 14 | (width - 1)
    struct.pack_into("<I", data, place, bits)
    return bytes(data)


def _resident(server: Supervised) -> int:
    processes = server.processes()
    return sum(each.memory_info().rss for role in _READERS for each in processes[role])


def _file(data: bytes) -> ModelInferRequest:
    return infer(small(image={"encoding": "file"}), data)


def _not_unpacked(bench: Bench, requests: dict[str, ModelInferRequest]) -> str:
    """Each is refused, or answered without what makes no pixels of it."""
    server = bench.shared()
    before = _resident(server)
    answers = {name: send(server, each) for name, each in requests.items()}
    taken = [name for name, answer in answers.items() if answer.code == "OK"]
    seen = require_refused({name: each for name, each in answers.items() if name not in taken})
    grown = max(0, _resident(server) - before)
    require(grown < _MOST_BYTES, f"{_GROWN} {grown / 2**20:.0f} MiB")
    pixels_only = f"; taken for its pixels alone: {', '.join(taken)}" if taken else ""
    return f"{seen}{pixels_only}; {_GROWN} {grown / 2**20:.0f} MiB"


def _refused(bench: Bench, requests: dict[str, ModelInferRequest]) -> str:
    seen = _not_unpacked(bench, requests)
    require("taken" not in seen, seen)
    return seen


@ROWS.add(
    "bombs-png",
    "PNGs that say 40,000², 16,384² in kilobytes of zeros, or have 256 MiB in texts, profiles and "
    "further data",
    _BOMBS,
    short=True,
)
def _bombs_png(bench: Bench) -> str:
    zeros = _zeros(256 << 20)
    pixels = _chunk(b"IDAT", _zeros(SIDE_PX * (3 * SIDE_PX + 1)))
    files = {
        "40,000²": _png(40_000, 40_000, _chunk(b"IDAT", b"")),
        "2³¹ wide": _png(2**31 - 1, 2**31 - 1, _chunk(b"IDAT", b"")),
        "16,384² of zeros": _png(16_384, 16_384, _chunk(b"IDAT", zeros)),
        "more pixels than it says": _png(SIDE_PX, SIDE_PX, _chunk(b"IDAT", zeros)),
        "a text": _png(SIDE_PX, SIDE_PX, _chunk(b"zTXt", b"a\x00\x00" + zeros), pixels),
        "a profile": _png(SIDE_PX, SIDE_PX, _chunk(b"iCCP", b"a\x00\x00" + zeros), pixels),
    }
    return _not_unpacked(bench, {name: _file(data) for name, data in files.items()})


@ROWS.add(
    "bombs-jpeg", "JPEGs of 12 kB that say 65,500², 65,500 × 1,000 and 16,000²", _BOMBS, short=True
)
def _bombs_jpeg(bench: Bench) -> str:
    sizes = ((65_500, 65_500), (65_500, 1000), (16_000, 16_000))
    return _refused(bench, {f"{w} × {h}": _file(_jpeg(w, h)) for w, h in sizes})


@ROWS.add("bombs-webp", "WebPs of some bytes that say 16,384² and 9,000²", _BOMBS, short=True)
def _bombs_webp(bench: Bench) -> str:
    return _refused(bench, {f"{side}²": _file(_webp(side, side)) for side in (16_384, 9_000)})


@ROWS.add(
    "bombs-masks",
    "PNG masks that say 40,000², or 16,384² in kilobytes of zeros, for a region of 64²; crops and "
    "control images likewise",
    _BOMBS,
    short=True,
)
def _bombs_masks(bench: Bench) -> str:
    files = {
        "40,000²": _png(40_000, 40_000, _chunk(b"IDAT", b"")),
        "16,384² of zeros": _png(16_384, 16_384, _chunk(b"IDAT", _zeros(256 << 20))),
        "64² with 256 MiB": _png(SIDE_PX, SIDE_PX, _chunk(b"IDAT", _zeros(256 << 20))),
    }
    region: dict[str, Any] = {"bbox": [16, 16, 48, 48], "crop_region": [0, 0, SIDE_PX, SIDE_PX]}
    requests = {}
    for name, data in files.items():
        place: dict[str, Any] = {"length": len(data), "encoding": "png"}
        mask = {**region, "mask": {**place, "shape": [SIDE_PX, SIDE_PX]}}
        crop = {**region, "image": {**place, "shape": [SIDE_PX, SIDE_PX, 3]}}
        requests[f"mask: {name}"] = infer(small(segs={"items": [mask]}), masks=data)
        requests[f"crop: {name}"] = infer(small(segs={"items": [crop]}), seg_images=data)
    return _not_unpacked(bench, requests)


@ROWS.add(
    "truncated-pictures",
    "PNG, JPEG and WebP files cut at 1 byte, a quarter, a half, and 20 bytes before their end",
    "Each is refused as INVALID_ARGUMENT within 2 s",
    short=True,
)
def _truncated(bench: Bench) -> str:
    requests = {}
    for form in _FORMATS:
        data = _noise(form)
        for size in (1, len(data) // 4, len(data) // 2, len(data) - 20):
            requests[f"{form} cut at {size} of {len(data)}"] = _file(data[:size])
    return _refused(bench, requests)


@ROWS.add(
    "other-formats",
    "GIF, BMP, TIFF, ICO, PPM and JPEG 2000 files, and a PNG of two pictures",
    "Refused as INVALID_ARGUMENT: only PNG, JPEG and WebP are decoded",
)
def _other_formats(bench: Bench) -> str:
    requests = {}
    for form in ("GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000"):
        requests[form] = _file(_noise(form, 64))
    return _refused(bench, requests)
