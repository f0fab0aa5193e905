"""Picture files as strangers may send them: bombs, lies, halves, and honest ones of rare kinds."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SIZE = 24, 16
"""(width, height) of the honest pictures."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture() -> Image.Image:
    """Smooth, so that lossy formats keep it."""
    columns = np.linspace(0, 255, SIZE[0])[None, :, None]
    rows = np.linspace(0, 255, SIZE[1])[:, None, None]
    return Image.fromarray((columns * [0.5, 0, 1] + rows * [0.5, 1, 0]).astype(np.uint8))


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """A picture as Pillow writes it."""
    out = io.BytesIO()
    (image or picture()).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(
    width: int,
    height: int,
    pixels: bytes = b"",
    *,
    depth: int = 8,
    colour: int = 2,
    extra: bytes = b"",
) -> bytes:
    """A PNG made by hand; ``pixels`` are its filtered rows, ``extra`` more chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(pixels, 1))
    return _SIGNATURE + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def with_segment(marker: int, data: bytes, times: int = 1) -> bytes:
    """A JPEG with further segments behind its first marker."""
    whole = saved("jpeg")
    return whole[:2] + segment(marker, data) * times + whole[2:]


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are ``count``."""
    whole = saved("jpeg", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    more = count - whole.count(b"\xff\xda")
    return whole[:-2] + last * more + whole[-2:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG that claims a size."""
    whole = saved("jpeg")
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


def webp_of_size(width: int, height: int) -> bytes:
    """A WebP whose canvas claims a size."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<II", 10, 0) + canvas
    body = b"WEBP" + extended + saved("webp")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated(kind: str, frames: int = 50) -> bytes:
    """A file of many frames."""
    others = [Image.new("RGB", SIZE, (index, 0, 0)) for index in range(frames - 1)]
    return saved(kind, save_all=True, append_images=others)


def _zipped(length: int) -> bytes:
    return zlib.compress(bytes(length), 1)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not a readable picture"),
    "text": (lambda: b"hello", "not a readable picture"),
    "GIF": (lambda: saved("gif"), "not a readable picture"),
    "BMP": (lambda: saved("bmp"), "not a readable picture"),
    "TIFF": (lambda: saved("tiff"), "not a readable picture"),
    "PDF": (lambda: saved("pdf"), "not a readable picture"),
    "ICO": (lambda: saved("ico"), "not a readable picture"),
    "EPS": (lambda: saved("eps"), "not a readable picture"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable picture"),
    "animated PNG": (lambda: animated("png"), "more than one picture"),
    "animated WebP": (lambda: animated("webp"), "more than one picture"),
    "PNG cut in its pixels": (lambda: saved("png")[:-20], "truncated"),
    "PNG cut in its header": (lambda: saved("png")[:20], "truncated"),
    "PNG without pixels": (lambda: png(100, 100), "truncated"),
    "PNG without size": (lambda: png(0, 100), "broken"),
    "PNG of an unknown kind": (lambda: png(1, 1, depth=7), "broken"),
    "PNG of two headers": (
        lambda: png(1, 1, bytes(4), extra=png(20_000, 20_000)[8:33]), "broken"
    ),
    "PNG whose chunk has no end": (
        lambda: png(1, 1, extra=struct.pack(">I4s", 2**32 - 1, b"tEXt")), "truncated"
    ),
    "PNG of a million chunks": (lambda: png(1, 1, extra=chunk(b"tEXt", b"") * 10**6), "too many"),
    "PNG with broken zlib": (
        lambda: saved("png").replace(b"IDATx", b"IDATy"), "truncated or broken"
    ),
    "JPEG cut in its pixels": (lambda: saved("jpeg")[:-20], "truncated"),
    "JPEG without its end": (lambda: saved("jpeg")[:-2], "truncated"),
    "JPEG cut in its header": (lambda: saved("jpeg")[:40], "truncated"),
    "JPEG of two frames": (
        lambda: with_segment(0xC0, bytes((8, 0, 1, 0, 1, 1, 1, 17, 0))), "not a kind of JPEG"
    ),
    "JPEG without size": (lambda: jpeg_of_size(0, 16), "broken"),
    "JPEG of a height told later": (lambda: jpeg_of_size(16, 0), "broken"),
    "lossless JPEG": (lambda: saved("jpeg").replace(b"\xff\xc0", b"\xff\xc3"), "not a kind"),
    "arithmetic JPEG": (lambda: saved("jpeg").replace(b"\xff\xc0", b"\xff\xc9"), "not a kind"),
    "JPEG of many scans": (lambda: scans(33), "too many scans"),
    "JPEG of a thousand scans": (lambda: scans(1000), "too many scans"),
    "JPEG of a million segments": (lambda: with_segment(0xFE, b"", 10**6), "too many chunks"),
    "JPEG that is only markers": (lambda: b"\xff\xd8" + b"\xff" * 10**7, "truncated"),
    "JPEG of empty markers": (lambda: b"\xff\xd8" + b"\xff\x00" * 10**6, "truncated"),
    "WebP cut": (lambda: saved("webp")[:-4], "truncated"),
    "WebP cut in its header": (lambda: saved("webp")[:18], "truncated"),
    "WebP without pixels": (lambda: b"RIFF\x04\0\0\0WEBP", "truncated"),
    "WebP with a chunk beyond its end": (
        lambda: b"RIFF\x0c\0\0\0WEBPVP8 \xff\xff\xff\xff", "truncated"
    ),
    "WebP of broken pixels": (
        lambda: saved("webp", lossless=True)[:30] + bytes(60), "truncated or broken"
    ),
    "WebP with a canvas of another size": (lambda: webp_of_size(64, 64), "truncated or broken"),
}  # fmt: skip
"""Name → file, and what its refusal says."""

TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "PNG of 65,000²": lambda: png(65_000, 65_000, bytes(1000)),
    "PNG of 2³¹ columns": lambda: png(2**31 - 1, 1),
    "JPEG of 65,000²": lambda: jpeg_of_size(65_000, 65_000),
    "WebP of 16,384² and more": lambda: webp_of_size(2**24, 2**8),
}
"""Files whose header claims more than any picture may have."""

BOMBS: dict[str, Callable[[], bytes]] = {
    "zTXt": lambda: _coloured(chunk(b"zTXt", b"k\0\0" + _zipped(5 * 10**7))),
    "many zTXt": lambda: _coloured(
        b"".join(chunk(b"zTXt", b"%d\0\0" % key + _zipped(10**6)) for key in range(60))
    ),
    "iTXt": lambda: _coloured(chunk(b"iTXt", b"k\0\1\0\0\0" + _zipped(5 * 10**7))),
    "iCCP": lambda: _coloured(chunk(b"iCCP", b"k\0\0" + _zipped(5 * 10**7))),
    "eXIf": lambda: _coloured(chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(10**6))),
    "pixels behind the last row": lambda: png(*SIZE, _rows() + bytes(3 * 5 * 10**7)),
}
"""PNG files with what would unpack to hundreds of megabytes beside :func:`picture`'s pixels."""


def _rows() -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(picture()))


def _coloured(extra: bytes) -> bytes:
    return png(*SIZE, _rows(), extra=extra)


def mpo() -> bytes:
    """A file of two pictures, as phones and 3D cameras write it."""
    smaller = picture().resize((8, 8))
    return saved("mpo", save_all=True, append_images=[smaller])


def ultra_hdr() -> bytes:
    """An MPO whose second picture is a gain map; Pillow calls it a JPEG of one frame."""
    names = b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    text = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description " + names + b"/></x:xmpmeta>"
    whole = mpo()
    return whole[:2] + segment(0xE1, text) + whole[2:]


FOLLOWED: dict[str, Callable[[], bytes]] = {
    "MPO": mpo,
    "Ultra HDR": ultra_hdr,
    "JPEG with a picture behind it": lambda: saved("jpeg") + saved("jpeg"),
    "JPEG with a film behind it": lambda: saved("jpeg") + b"\0\0\0\x18ftypmp42" + bytes(1000),
    "PNG with a picture behind it": lambda: saved("png") + saved("png"),
    "WebP with a picture behind it": lambda: saved("webp", quality=95) + saved("webp"),
}
"""Name → a file whose first picture is :func:`picture`, with more behind it."""

HONEST: dict[str, tuple[Callable[[], bytes], float]] = {
    "PNG": (lambda: saved("png"), 0),
    "PNG, palette": (lambda: saved("png", picture().quantize(256)), 12),
    "PNG, RGBA": (lambda: saved("png", picture().convert("RGBA")), 0),
    "PNG, 16 bit": (lambda: png(*SIZE, _wide_rows(), depth=16), 0),
    "PNG with EXIF": (lambda: saved("png", exif=_exif()), 0),
    "PNG, one frame": (lambda: saved("png", save_all=True), 0),
    "JPEG": (lambda: saved("jpeg", quality=95, subsampling=0), 4),
    "JPEG, progressive": (lambda: saved("jpeg", quality=95, subsampling=0, progressive=True), 4),
    "JPEG, 30 scans": (lambda: scans(30), 255),
    "JPEG, CMYK": (lambda: saved("jpeg", picture().convert("CMYK"), quality=95), 12),
    "JPEG with EXIF": (lambda: with_segment(0xE1, b"Exif\0\0" + _exif()), 40),
    "JPEG with broken EXIF": (lambda: with_segment(0xE1, b"Exif\0\0MM\0*" + b"\xff" * 60_000), 40),
    "JPEG with restarts": (lambda: saved("jpeg", quality=95, restart_marker_blocks=1), 40),
    **{name: (make, 40) for name, make in FOLLOWED.items()},
    "WebP": (lambda: saved("webp", quality=95), 40),
    "WebP, lossless": (lambda: saved("webp", lossless=True), 0),
    "WebP with EXIF": (lambda: saved("webp", lossless=True, exif=_exif()), 0),
    "WebP, RGBA": (lambda: saved("webp", picture().convert("RGBA"), lossless=True), 0),
}  # fmt: skip
"""Name → file, and how far its pixels may be from :func:`picture`'s, in grey levels."""


def _wide_rows() -> bytes:
    wide = np.asarray(picture()).astype(">u2") * 257
    return b"".join(b"\0" + row.tobytes() for row in wide)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[271] = "a maker"
    return exif.tobytes()
