"""(b) What lies in the other tensors: pictures, whole and broken, and buffers that lie."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests import icc
from tests.fuzz.documents import SIZE, Json

_MODES = {
    "PNG": ("RGB", "L", "P", "RGBA", "LA", "1", "I;16"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P",),
    "BMP": ("RGB",),
    "TIFF": ("RGB",),
    "ICO": ("RGBA",),
    "PPM": ("RGB",),
}
_PROFILES = (icc.rgb(), icc.grey(), icc.cmyk(), icc.elements(500))
_HUGE = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 65_535, 16_384, 16_385, 30_000)


@functools.cache
def files() -> tuple[bytes, ...]:
    """Small pictures of :data:`~tests.fuzz.documents.SIZE` in many formats and modes."""
    return tuple(
        _saved(name, mode, options)
        for name, modes in _MODES.items()
        for mode in modes
        for options in _options(name)
    )


def _options(name: str) -> tuple[dict[str, Any], ...]:
    if name == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("a", "b" * 2000, zip=True)
        text.add_itxt("c", "d" * 100, zip=True)
        return (
            {},
            {"pnginfo": text, "icc_profile": icc.rgb(), "dpi": (72, 72)},
            {"save_all": True},
        )
    if name == "JPEG":
        profiles = [{"quality": 60, "icc_profile": profile} for profile in _PROFILES]
        long = {"progressive": True, "exif": _exif(6), "icc_profile": icc.rgb(70_000)}
        return ({"quality": 60}, long, *profiles)
    if name == "WEBP":
        marked = {"lossless": True, "exif": _exif(8), "icc_profile": icc.rgb()}
        return ({"quality": 60}, marked, {"save_all": True})
    return ({},)


def _exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x010F] = "a maker of cameras"
    block[0x0112] = orientation
    return block.tobytes()


def _saved(name: str, mode: str, options: dict[str, Any]) -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
    out = io.BytesIO()
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture, np.uint16) * 257)
    if "save_all" in options:
        options = {**options, "append_images": [picture, picture]}
    picture.save(out, format=name, **options)
    return out.getvalue()


def raw_pixels() -> bytes:
    """The picture that valid requests are made for."""
    return np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8).tobytes()


def hostile_file(rng: random.Random) -> bytes:
    """A picture's file, nearly always broken."""
    data = bytearray(rng.choice(files()))
    kind = rng.randrange(12)
    if kind == 0:
        return bytes(data)
    if kind == 1:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 2:
        return rng.randbytes(rng.choice([0, 1, 7, 8, 16, 300, 5000]))
    if kind == 3:
        return bytes(data[:40]) + rng.randbytes(200)
    if kind == 4:
        place = rng.randrange(len(data))
        return bytes(data[:place] + data[place + rng.randint(1, 40) :])
    if kind == 5:
        return _png_of(rng)
    if kind == 6 and data[:4] == b"\x89PNG":
        return _with_chunk(rng, bytes(data))
    if kind >= 9:
        return _with_metadata(rng, bytes(data))
    near_start = rng.random() < 0.6
    return _changed(rng, bytes(data), near_start)


def _changed(rng: random.Random, content: bytes, near_start: bool) -> bytes:
    """Some bytes are others."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20]) if data else 0):
        place = rng.randrange(min(64, len(data)) if near_start else len(data))
        data[place] = rng.choice([0, 255, rng.randrange(256), data[place] ^ 1 << rng.randrange(8)])
    return bytes(data)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file, its checksum right."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png_of(rng: random.Random) -> bytes:
    """A PNG whose header and content need not agree."""
    width, height = rng.choice((*_HUGE, 8)), rng.choice((*_HUGE, 8))
    header = struct.pack(
        *(">IIBBBBB", width, height, rng.choice([1, 2, 8, 16, 3]), rng.choice([0, 2, 3, 4, 6, 5])),
        *(rng.choice([0, 0, 1]), rng.choice([0, 0, 1]), rng.choice([0, 1, 2])),
    )
    body = zlib.compress(bytes(rng.choice([0, 200, 100_000])))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    if rng.random() < 0.2:
        parts.insert(rng.randrange(4), rng.choice(parts))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _with_chunk(rng: random.Random, data: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    bomb = zlib.compress(bytes(rng.choice([10, 100_000, 5_000_000])))
    content = rng.choice([b"", rng.randbytes(rng.randrange(64)), b"a\x00\x00" + bomb])
    names = (b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT")
    made = chunk(rng.choice((*names, b"eXIf", b"gAMA", b"IHDR", b"IEND", b"abcd")), content)
    if rng.random() < 0.2:
        made = struct.pack(">I", rng.choice([2**31 - 1, 2**32 - 1, 2**31])) + made[4:]
    return data[:33] + made + data[33:]


def _with_metadata(rng: random.Random, data: bytes) -> bytes:
    """A file with an EXIF block and a profile that may be broken, and more behind its end."""
    blocks = [_exif(rng.randrange(10)), b"Exif\0\0MM\0*\0\0\0\x08" + rng.randbytes(40), b""]
    exif, profile = rng.choice(blocks), rng.choice((*_PROFILES, *icc.BROKEN.values()))[:60_000]
    if rng.random() < 0.5:
        exif = _changed(rng, exif, near_start=True)
    if rng.random() < 0.7:
        profile = _changed(rng, profile, near_start=rng.random() < 0.5)
    if data[:4] == b"\x89PNG":
        packed = b"n\0\0" + zlib.compress(profile)
        data = data[:33] + chunk(b"eXIf", exif) + chunk(b"iCCP", packed) + data[33:]
    elif data[:2] == b"\xff\xd8":
        data = data[:2] + _segments(rng, exif, profile) + data[2:]
    elif data[:4] == b"RIFF":
        added = [struct.pack("<4sI", name, len(content)) + content + bytes(len(content) % 2)
                 for name, content in ((b"EXIF", exif), (b"ICCP", profile))]  # fmt: skip
        data = data[:12] + b"".join(added) + data[12:]
        data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data + rng.choice([b"", b"", data, rng.randbytes(50)])


def _segments(rng: random.Random, exif: bytes, profile: bytes) -> bytes:
    """Segments of a JPEG: EXIF, several pictures, and a profile in parts with wrong numbers."""
    count = rng.choice([1, 1, 2, 5])
    step = len(profile) // count + 1
    contents = [(0xE1, exif), (0xE2, b"MPF\0" + rng.randbytes(30))]
    for number in range(count):
        said = rng.choice([number + 1] * 9 + [0, 255]), rng.choice([count] * 9 + [0, 255])
        part = profile[number * step : (number + 1) * step]
        contents.append((0xE2, b"ICC_PROFILE\0" + bytes(said) + part))
    if rng.random() < 0.2:
        rng.shuffle(contents)
    return b"".join(
        struct.pack(">BBH", 0xFF, kind, len(each) + 2) + each for kind, each in contents
    )


def with_buffers(rng: random.Random, document: Json) -> dict[str, bytes]:
    """Gives a valid document masks, crops and control images that may lie about themselves.

    Returns the tensors ``masks``, ``seg_images`` and ``control_images``.
    """
    height, width = SIZE
    tensors = {"masks": b"", "seg_images": b"", "control_images": b""}
    item = {"bbox": [8, 8, 24, 24], "crop_region": [0, 0, width, height]}
    document["segs"]["items"] = [item]
    if rng.random() < 0.7:
        item["mask"], tensors["masks"] = _buffer(rng, [height, width])
    if rng.random() < 0.4:
        item["image"], tensors["seg_images"] = _buffer(rng, [height, width, 3])
    if rng.random() < 0.4:
        place, tensors["control_images"] = _buffer(rng, [height, width, 3])
        name = rng.choice(["controlnet", "controlnet", "nobody"])
        preprocessor = rng.choice(["none", "canny", "sobel", "blur", "gray", "nobody"])
        document["controlnets"] = [{"name": name, "image": place, "preprocessor": preprocessor}]
    if rng.random() < 0.3:
        place, more = _buffer(rng, [height, width])
        place["offset"] += len(tensors["masks"])
        tensors["masks"] += more
        document["prompts"] = [{"text": "a", "mask": place}]
    return tensors


def _buffer(rng: random.Random, shape: list[int]) -> tuple[Json, bytes]:
    """A buffer's description and its bytes; right in half of the cases."""
    encoding = rng.choice(["uint8", "float32", "png"])
    count = int(np.prod(shape))
    if encoding == "uint8":
        data = rng.randbytes(count)
    elif encoding == "float32":
        data = np.random.default_rng(rng.randrange(9)).random(count, np.float32).tobytes()
    else:
        pixels = np.frombuffer(rng.randbytes(count), np.uint8).reshape(shape)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=0)
        data = out.getvalue()
    place: Json = {"offset": 0, "length": len(data), "shape": shape, "encoding": encoding}
    kind = rng.randrange(14)
    if kind == 0:
        place["offset"] = rng.choice([1, -1, len(data), 2**63 - 1, 2**64, 2**31])
    elif kind == 1:
        place["length"] = rng.choice([len(data) + 1, len(data) - 1, 0, -1, 2**63, 2**31, 1])
    elif kind == 2:
        place["shape"] = rng.choice(
            [[1, count], [count, 1], [2**20, 2**20], shape[:1], [0, 0], [*shape, 3], [-1, -1]]
        )
    elif kind == 3:
        data = data[: rng.randrange(len(data))]
    elif kind == 4:
        values = rng.choice([np.nan, np.inf, -1.0, 1.0001, 3e38, -0.0])
        data = np.full(count, values, np.float32).tobytes()
        place |= {"encoding": "float32", "length": len(data)}
    elif kind == 5:
        data = hostile_file(rng) or b"x"
        place |= {"encoding": "png", "length": len(data)}
    elif kind == 6:
        place["encoding"] = rng.choice(["float32", "uint8", "png", "float16", ""])
    return place, data
