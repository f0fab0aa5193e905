"""Untrusted picture files: their structure is checked before they are decoded.

Only PNG, JPEG and WebP files are supported, and no animations. The picture ends where its format
says; what follows is ignored, such as the further pictures of an MPO or Ultra HDR file.

The decoder gets only the parts that contain pixels. (In WebP it gets all; it does not read the
others.) Text and thumbnails, the usual places of decompression bombs, are skipped unread. Of EXIF
only the orientation is read, and an ICC profile up to a bound, see
:mod:`segs_client.picture_metadata`.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from segs_client.boxes import Size
from segs_client.contract import ContractError, invalid
from segs_client.picture_metadata import (
    MAX_PROFILE_BYTES,
    is_sideways,
    joined_profile,
    read_orientation,
    turned,
    unpacked_profile,
)

FORMATS = ("PNG", "JPEG", "WEBP")
ALLOWED = "a PNG, JPEG or WebP file"

MAX_SCANS = 32
"""Most scans of a JPEG: each takes the decoder a pass over the picture; encoders write 1 to 15."""
MAX_PARTS = 32_768
"""Most chunks or segments of a file; encoders write one per 8 KiB or more."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_PNG_MODES = {
    (1, 0): "1", (2, 0): "L", (4, 0): "L", (8, 0): "L", (16, 0): "I;16",
    (8, 2): "RGB", (16, 2): "RGB",
    (1, 3): "P", (2, 3): "P", (4, 3): "P", (8, 3): "P",
    (8, 4): "LA", (16, 4): "RGBA", (8, 6): "RGBA", (16, 6): "RGBA",
}  # fmt: skip
"""(bit depth, colour type) → Pillow's mode."""

_JPEG_MARKER = re.compile(rb"\xff(?=[\x01-\xfe])")
_JPEG_AFTER_SCAN = re.compile(rb"\xff(?=[\x01-\xcf\xd8-\xfe])")
"""Inside a scan 0xFF is followed by 0 or by a restart marker."""
_JPEG_FILL = 64
"""Most bytes 0xFF before a marker."""
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
_JPEG_TABLES = (0xC4, 0xDB, 0xDD)
_JPEG_LEFT_OUT = (*range(0xE1, 0xEE), 0xEF, 0xFE)
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_ALLOWED = frozenset((*_JPEG_TABLES, 0xE0, 0xEE, *_JPEG_LEFT_OUT, _JPEG_SCAN, _JPEG_END))
"""Beside the one frame. APP0 and APP14 define the colours' encoding."""
_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}

_Span = tuple[int, int]


@dataclass(frozen=True)
class PictureFile:
    """A file's declared size and mode, its orientation, and the parts of it that a decoder needs.

    ``mode`` is Pillow's; empty for WebP. The picture ends at byte ``end``.
    """

    format: str
    stored_size: Size
    mode: str
    data: memoryview
    end: int
    spans: tuple[_Span, ...]
    orientation: int = 1
    profile_spans: tuple[_Span, ...] = ()
    """Contents of the chunks or segments that have the ICC profile."""

    @property
    def size(self) -> Size:
        """Height and width of the upright picture."""
        height, width = self.stored_size
        return (width, height) if is_sideways(self.orientation) else (height, width)

    def profile(self) -> bytes | None:
        """The ICC profile, not checked; None if there is none, or it cannot be unpacked or is
        longer than :data:`segs_client.picture_metadata.MAX_PROFILE_BYTES`."""
        parts = [self.data[start:end] for start, end in self.profile_spans]
        if not parts:
            return None
        if self.format == "JPEG":
            return joined_profile(parts)
        if self.format == "PNG":
            return unpacked_profile(parts[0])
        return bytes(parts[0]) if len(parts[0]) <= MAX_PROFILE_BYTES else None

    def decode(self, field: str) -> Image.Image:
        """The upright picture, loaded, without metadata.

        Raises:
            ContractError: it is truncated, broken, differs from its header, or is larger than
                Pillow decodes.
        """
        height, width = self.stored_size
        if Image.MAX_IMAGE_PIXELS is not None and height * width > 2 * Image.MAX_IMAGE_PIXELS:
            allowed = f"up to {2 * Image.MAX_IMAGE_PIXELS} pixels"
            raise invalid(field, "too large", value=f"{width}×{height}", allowed=allowed)
        content = b"".join(self.data[start:end] for start, end in self.spans)
        try:
            with Image.open(io.BytesIO(content), formats=[self.format]) as picture:
                if picture.size == (width, height):
                    picture.load()
                    kept = picture.info.get("transparency")
                    picture.info = {} if kept is None else {"transparency": kept}
                    return turned(picture, self.orientation)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many classes for broken files
            raise _broken(field) from error
        raise _broken(field)


def inspect(data: bytes | memoryview, field: str, formats: Sequence[str] = FORMATS) -> PictureFile:
    """Reads the structure of a file without decoding it.

    Args:
        data: the whole file.
        field: its name in errors.
        formats: the accepted ones of :data:`FORMATS`.

    Raises:
        ContractError: an unsupported format or kind, an animation, or a truncated file.

    Example:
        >>> inspect(b"GIF89a", "image")
        Traceback (most recent call last):
        ...
        segs_client.refusals.ContractError: image: not a readable picture; allowed: a PNG, JPEG ...
    """
    view = memoryview(data).cast("B")
    for name, starts, read in _READERS:
        if name in formats and starts(bytes(view[:12])):
            try:
                return read(view, field)
            except (struct.error, IndexError) as error:
                raise _broken(field) from error
    raise invalid(field, "not a readable picture", allowed=_allowed(formats))


def is_supported(data: bytes | memoryview) -> bool:
    """Whether a file begins as one of :data:`FORMATS` does."""
    return any(starts(bytes(data[:12])) for _, starts, _ in _READERS)


def _allowed(formats: Sequence[str]) -> str:
    return ALLOWED if tuple(formats) == FORMATS else f"a {' or '.join(formats)} file"


def _broken(field: str) -> ContractError:
    return invalid(field, "truncated or broken", allowed="a whole file")


def _animated(field: str, value: str) -> ContractError:
    return invalid(field, "more than one picture", value=value, allowed="a file of one picture")


def _parts(field: str) -> ContractError:
    return invalid(field, "too many chunks", allowed=f"up to {MAX_PARTS}")


def _png(data: memoryview, field: str) -> PictureFile:
    length, kind = struct.unpack_from(">I4s", data, 8)
    if kind != b"IHDR" or length != 13:
        raise _broken(field)
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    mode = _PNG_MODES.get((depth, colour))
    if mode is None or not width or not height:
        raise _broken(field)
    spans = [(0, 33)]
    contents: dict[bytes, _Span] = {}
    at = 33
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or kind == b"IHDR":
            raise _broken(field)
        if kind == b"acTL" and struct.unpack_from(">I", data, at + 8)[0] > 1:
            raise _animated(field, "an animated PNG")
        if kind in _PNG_KEPT:
            _keep(spans, at, end)
        if kind == b"IEND":
            metadata = _metadata(data, contents, b"eXIf", b"iCCP")
            return PictureFile("PNG", (height, width), mode, data, end, tuple(spans), *metadata)
        contents.setdefault(kind, (at + 8, end - 4))
        at = end
    raise _parts(field)


def _jpeg(data: memoryview, field: str) -> PictureFile:
    spans = [(0, 2)]
    exif: list[_Span] = []
    profile: list[_Span] = []
    scans = 0
    frame: tuple[Size, str] | None = None
    for kind, start, end in _jpeg_segments(data, field):
        if kind in _JPEG_FRAMES and frame is None:
            frame = _jpeg_frame(data, start, field)
        elif kind not in _JPEG_ALLOWED:
            raise invalid(
                field, "not a kind of JPEG that is read", allowed="baseline or progressive, 8 bit"
            )
        if kind == _JPEG_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise invalid(field, "too many scans", allowed=f"a JPEG of up to {MAX_SCANS}")
        if kind not in _JPEG_LEFT_OUT:
            _keep(spans, start, end)
        for found, marker, begins in ((exif, 0xE1, b"Exif\0\0"), (profile, 0xE2, b"ICC_PROFILE\0")):
            content = start + 4 + len(begins)
            if kind == marker and data[start + 4 : content] == begins:
                found.append((content, end))
    if frame is None or not scans:
        raise _broken(field)
    orientation = read_orientation(data[slice(*exif[0])]) if exif else 1
    return PictureFile("JPEG", *frame, data, end, tuple(spans), orientation, tuple(profile))


def _jpeg_segments(data: memoryview, field: str) -> Iterator[tuple[int, int, int]]:
    """The kind, start and end of each segment, up to the first end of a picture; a scan's end is
    that of its pixels. Pictures within a segment, such as thumbnails, are part of it."""
    at = 2
    for _ in range(MAX_PARTS):
        start = _marker(data, at, field)
        kind = data[start + 1]
        if kind == _JPEG_END:
            yield kind, start, start + 2
            return
        at = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        if at > len(data) or at < start + 4:
            raise _broken(field)
        if kind == _JPEG_SCAN:
            found = _JPEG_AFTER_SCAN.search(data, at)
            if found is None:
                raise _broken(field)
            at = found.start()
        yield kind, start, at
    raise _parts(field)


def _marker(data: memoryview, at: int, field: str) -> int:
    """The position of the marker at ``at`` after fill bytes."""
    found = _JPEG_MARKER.search(data, at, at + _JPEG_FILL)
    if found is None or bytes(data[at : found.start()]).strip(b"\xff"):
        raise _broken(field)
    return found.start()


def _jpeg_frame(data: memoryview, start: int, field: str) -> tuple[Size, str]:
    precision, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
    mode = _JPEG_MODES.get(components)
    if precision != 8 or mode is None or not height or not width:
        raise _broken(field)
    return (height, width), mode


def _webp(data: memoryview, field: str) -> PictureFile:
    end_of_file = 8 + struct.unpack_from("<I", data, 4)[0]
    if end_of_file > len(data):
        raise _broken(field)
    size: Size | None = None
    contents: dict[bytes, _Span] = {}
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > end_of_file:
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length
        if end > end_of_file:
            raise _broken(field)
        if kind in (b"ANIM", b"ANMF"):
            raise _animated(field, "an animated WebP")
        if size is None:
            size = _webp_size(data, kind, at + 8)
        contents.setdefault(kind, (at + 8, end))
        at = end + length % 2
    else:
        raise _parts(field)
    if size is None:
        raise _broken(field)
    metadata = _metadata(data, contents, b"EXIF", b"ICCP")
    return PictureFile("WEBP", size, "", data, end_of_file, ((0, end_of_file),), *metadata)


def _webp_size(data: memoryview, kind: bytes, at: int) -> Size | None:
    """(height, width) of a chunk, if it has them; the first such chunk is that of the canvas."""
    if kind == b"VP8X":
        wide, high = (int.from_bytes(data[at + skip : at + skip + 3], "little") for skip in (4, 7))
        return high + 1, wide + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, at + 1)[0]
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        wide, high = struct.unpack_from("<HH", data, at + 6)
        return high & 0x3FFF, wide & 0x3FFF
    return None


def _metadata(
    data: memoryview, contents: Mapping[bytes, _Span], exif: bytes, profile: bytes
) -> tuple[int, tuple[_Span, ...]]:
    """The orientation and the profile's place, by the contents of the first chunk of each name."""
    orientation = read_orientation(data[slice(*contents[exif])]) if exif in contents else 1
    return orientation, (contents[profile],) if profile in contents else ()


def _keep(spans: list[_Span], start: int, end: int) -> None:
    """Appends a span, joined to the last one if they are adjacent."""
    if spans[-1][1] == start:
        spans[-1] = spans[-1][0], end
    else:
        spans.append((start, end))


_READERS: tuple[
    tuple[str, Callable[[bytes], bool], Callable[[memoryview, str], PictureFile]], ...
] = (
    ("PNG", lambda head: head.startswith(_PNG_SIGNATURE), _png),
    ("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), _jpeg),
    ("WEBP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _webp),
)
