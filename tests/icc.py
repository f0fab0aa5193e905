"""Small ICC profiles, made by hand, and pictures' files that have them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping

_D50 = (0.9642, 1.0, 0.8249)
_P3 = {"r": (0.5151, 0.2412, -0.0011), "g": (0.2920, 0.6922, 0.0419), "b": (0.1571, 0.0666, 0.7841)}
"""Display P3's primaries, adapted to D50."""


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


_P3_TAGS = {
    **{f"{name}XYZ".encode(): _xyz(values) for name, values in _P3.items()},
    **{f"{name}TRC".encode(): _gamma(2.2) for name in "rgb"},
}


def _text(text: bytes) -> bytes:
    return b"text\0\0\0\0" + text + b"\0"


def _described(text: bytes) -> bytes:
    """The ASCII part of a description, and its empty others."""
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67)


def profile(
    space: bytes, tags: Mapping[bytes, bytes], *, pcs: bytes = b"XYZ ", kind: bytes = b"mntr"
) -> bytes:
    """A profile of version 2."""
    tags = {b"desc": _described(b"made"), b"cprt": _text(b"none"), b"wtpt": _xyz(_D50), **tags}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s12x4s", at + len(body), b"none", 0x02100000, kind, space, pcs,
                         b"acsp")  # fmt: skip
    header = header.ljust(68, b"\0") + b"".join(map(_fixed, _D50))
    return header.ljust(128, b"\0") + table + body


def rgb(size: int = 0) -> bytes:
    """Display P3's primaries with a gamma of 2.2; ``size``: bytes of a tag that means nothing."""
    return profile(b"RGB ", {**_P3_TAGS, b"none": _text(bytes(size))} if size else _P3_TAGS)


def grey(gamma: float = 1.0) -> bytes:
    """Grey levels with a gamma."""
    return profile(b"GRAY", {b"kTRC": _gamma(gamma)})


def cmyk() -> bytes:
    """A table of CMYK's corners in Lab: the inks darken, and are duller than Pillow takes them."""
    corners = b""
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        lightness = 255 * (1 - k) * (1 - 0.4 * c) * (1 - 0.5 * m) * (1 - 0.1 * y)
        a, b = 128 + (1 - k) * (60 * m - 30 * c), 128 + (1 - k) * (70 * y - 40 * c)
        corners += bytes((round(lightness), round(a), round(b)))
    matrix = b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    identity = bytes(range(256))
    table = struct.pack(">4s4xBBBx", b"mft1", 4, 3, 2) + matrix
    table += identity * 4 + corners + identity * 3
    return profile(b"CMYK", {b"A2B0": table}, pcs=b"Lab ", kind=b"prtr")


def elements(count: int) -> bytes:
    """:func:`rgb` with a chain of elements, as version 4 may have it, which makes all black.

    All are the same bytes: LittleCMS runs through each of them, for each entry of a table."""
    element = b"matf\0\0\0\0" + struct.pack(">HH12f", 3, 3, *[0] * 12)
    start = 16 + 8 * count
    chain = b"mpet\0\0\0\0" + struct.pack(">HHI", 3, 3, count)
    chain += struct.pack(">II", start, len(element)) * count + element
    made = profile(b"RGB ", {**_P3_TAGS, b"D2B0": chain, b"D2B1": chain})
    return made[:8] + b"\x04\x30\0\0" + made[12:]


BROKEN: Mapping[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(300),
    "a header alone": rgb()[:128],
    "cut": rgb()[:-20],
    "not signed": rgb().replace(b"acsp", b"none"),
    "colours of another kind": rgb().replace(b"RGB ", b"HSV ", 1),
    "a link of devices": rgb().replace(b"mntr", b"link", 1),
    "longer than any": rgb(5 << 20),
}
"""Name → what a header shows to be no profile of a picture."""

UNUSABLE: Mapping[str, bytes] = {
    "CMYK without a table": profile(b"CMYK", {}, pcs=b"Lab ", kind=b"prtr"),
    "grey without a curve": profile(b"GRAY", {}),
    "noise behind the header": grey()[:132] + bytes(len(grey()) - 132),
}
"""Name → a profile with a good header that LittleCMS refuses."""
