"""What is read of the metadata in picture files: the EXIF orientation, and ICC profiles.

Both are bounded, so that no file costs more than its pixels do. A block that is broken counts as
absent: it never fails a request.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

from PIL import Image

ProfileSpace: TypeAlias = Literal["RGB", "GRAY", "CMYK"]

MAX_PROFILE_BYTES = 4 << 20
"""Longest ICC profile; those of printing presses have up to 3 MB."""
_EXIF_BYTES = 65_536
"""Bytes of an EXIF block that are read, as many as a JPEG's segment has."""
_EXIF_PREFIX = b"Exif\0\0"
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I"}
"""TIFF's types of whole numbers, as struct's."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the picture upright."""

_HEADER_BYTES = 132
"""Of an ICC profile: its header and the number of its tags."""
_SPACES: dict[bytes, ProfileSpace] = {b"RGB ": "RGB", b"GRAY": "GRAY", b"CMYK": "CMYK"}
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
"""Profiles of pictures; the others convert between devices, or name colours."""
_TAGS = frozenset(
    (
        b"wtpt", b"bkpt", b"chad", b"A2B0", b"A2B1", b"A2B2", b"kTRC",
        b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC",
    )
)  # fmt: skip
"""What a profile says of its colours: white, and a table, or primaries and curves."""


def read_orientation(block: bytes | memoryview) -> int:
    """The orientation 1 … 8 of an EXIF block; 1 if it has none or is broken.

    Only the first directory's entries are read, up to the orientation. (Pillow's parser copies the
    values of all tags: 64 KiB whose tags share their values become 360 MB.)

    Args:
        block: a TIFF structure, with or without the prefix "Exif" of JPEG.

    Example:
        >>> exif = Image.Exif()
        >>> exif[274] = 6
        >>> read_orientation(exif.tobytes())
        6
    """
    data = bytes(block[:_EXIF_BYTES]).removeprefix(_EXIF_PREFIX)
    order = _TIFF_ORDERS.get(data[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, at)
            if tag == _ORIENTATION:
                if kind not in _INTEGERS or number != 1:
                    return 1
                (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", data, at + 8)
                return value if value in _TURNS else 1
    except struct.error:
        pass
    return 1


def is_sideways(orientation: int) -> bool:
    """Whether a picture of this EXIF orientation changes its height and width when upright."""
    return orientation >= 5


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture of an EXIF orientation as an upright one; itself if it is upright."""
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def profile_space(profile: bytes) -> ProfileSpace | None:
    """The colours that an ICC profile describes, by its header; None if it is broken, too long, or
    of no use for pictures."""
    if not _HEADER_BYTES <= len(profile) <= MAX_PROFILE_BYTES or profile[36:40] != b"acsp":
        return None
    declared = int.from_bytes(profile[:4], "big")
    if not _HEADER_BYTES <= declared <= len(profile) or profile[12:16] not in _CLASSES:
        return None
    return _SPACES.get(profile[16:20])


def plain_profile(profile: bytes) -> bytes:
    """A profile with a good header as LittleCMS gets it: all tags but the usual ones have other
    names, so that they are not read.

    Above all D2B0 … D2B3: their chains of elements have no bound, and 160 kB of them take
    LittleCMS 14 s. A profile has to work without them.
    """
    plain = bytearray(profile)
    count = int.from_bytes(profile[128:132], "big")
    for index, at in enumerate(range(132, min(132 + 12 * count, len(profile) - 11), 12)):
        if profile[at : at + 4] not in _TAGS:
            plain[at : at + 4] = index.to_bytes(4, "big")  # names must differ
    return bytes(plain)


def unpacked_profile(content: bytes | memoryview) -> bytes | None:
    """The profile in a PNG's chunk iCCP: a name, 0, the method 0, and a zlib stream."""
    _, separator, packed = bytes(content[:80]).partition(b"\0")
    if not separator or packed[:1] != b"\0":
        return None
    start = len(content[:80]) - len(packed) + 1
    unpacker = zlib.decompressobj()
    stream = content[start : start + 2 * MAX_PROFILE_BYTES]  # zlib copies what it leaves
    try:
        profile = unpacker.decompress(stream, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        return None
    return profile if unpacker.eof and len(profile) <= MAX_PROFILE_BYTES else None


def joined_profile(parts: Sequence[bytes | memoryview]) -> bytes | None:
    """The profile in a JPEG's segments, each of which begins with its number and their count."""
    if not parts or sum(len(part) for part in parts) > MAX_PROFILE_BYTES + 2 * len(parts):
        return None
    numbered = {part[0]: part[2:] for part in parts if len(part) > 2 and part[1] == len(parts)}
    if sorted(numbered) != list(range(1, len(parts) + 1)):
        return None
    return b"".join(numbered[number] for number in sorted(numbered))
