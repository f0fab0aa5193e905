"""Pictures to send: tiny ones, and files that take long to decode or to refuse."""

from __future__ import annotations

import functools
import io
import struct
import zlib

import numpy as np
from PIL import Image

_SHRUNK = 8
_CHECKSUM_BYTES = 4


def grey(side_px: int) -> bytes:
    """Raw RGB pixels of a square."""
    return bytes([128]) * (side_px * side_px * 3)


@functools.cache
def lossless_webp(width: int, height: int) -> bytes:
    """Of one colour: a few kB, as long to decode as any of that size."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(file, "WEBP", lossless=True)
    return file.getvalue()


@functools.cache
def bad_png(side_px: int) -> bytes:
    """A black square whose checksum is wrong, which only shows when all is decompressed."""
    packer = zlib.compressobj(1)
    row = b"\0" + bytes(side_px * 3)
    packed = b"".join(packer.compress(row) for _ in range(side_px)) + packer.flush()
    size = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    broken = packed[:-_CHECKSUM_BYTES] + b"\1\2\3\4"
    chunks = _chunk(b"IHDR", size) + _chunk(b"IDAT", broken) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


@functools.cache
def photograph(width: int, height: int) -> bytes:
    """A JPEG with detail everywhere, as a camera's."""
    size = (height // _SHRUNK, width // _SHRUNK, 3)
    small = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)
    file = io.BytesIO()
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    large.save(file, "JPEG", quality=90)
    return file.getvalue()
