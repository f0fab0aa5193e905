"""Draws outlines and labels of SEGS onto a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from segs_client.boxes import Box, FloatBox, outer_box
from segs_client.segs import Seg

Colour: TypeAlias = tuple[int, int, int]

INK: Colour = (40, 44, 52)
_COLOURS: tuple[Colour, ...] = (
    (255, 99, 71), (64, 156, 255), (255, 193, 37), (46, 204, 113), (214, 112, 255), (0, 206, 209)
)  # fmt: skip
_DASH = 6


def colour_of(index: int) -> Colour:
    """The RGB colour of the SEG with this index."""
    return _COLOURS[index % len(_COLOURS)]


def text_height(picture: Image.Image) -> int:
    """A readable height of text in pixels, by the picture's size."""
    return max(14, round(max(picture.size) / 36))


def outline(
    picture: Image.Image, segs: Iterable[Seg], *, boxes: bool = True, labels: bool = True
) -> None:
    """Draws SEGS onto an RGB ``picture``, in one colour per SEG.

    Args:
        picture: changed in place.
        segs: in pixels of the picture.
        boxes: outline boxes solid and crop regions dashed.
        labels: a tag with the SEG's number, from 1, and its label.
    """
    draw = ImageDraw.Draw(picture)
    outlined = list(segs)
    unit = max(1, round(max(picture.size) / 600))  # thickness of a line, px
    for index, seg in enumerate(outlined if boxes else ()):
        _dashed(draw, _inside(seg.crop_region, picture), colour_of(index), unit)
        draw.rectangle(_inside(seg.bbox, picture), outline=colour_of(index), width=unit + 1)
    for index, seg in enumerate(outlined if labels else ()):
        text = f"{index + 1} {seg.label}".strip()
        _tag(draw, _inside(seg.bbox, picture), text, colour_of(index), text_height(picture))


def _tag(draw: ImageDraw.ImageDraw, box: Box, text: str, colour: Colour, text_px: int) -> None:
    """A label on a tag above the box's upper left corner, or inside if there is no room."""
    font = ImageFont.load_default(max(10, round(text_px * 0.7)))
    pad = max(2, text_px // 6)
    x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font, anchor="lt")
    width, height = int(x2 - x1) + 2 * pad, int(y2 - y1) + 2 * pad
    x = max(0, min(box[0], draw.im.size[0] - width))
    y = box[1] - height if box[1] >= height else box[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad, y + pad), text, fill=INK, font=font, anchor="lt")


def _dashed(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, unit: int) -> None:
    x1, y1, x2, y2 = box
    dash = _DASH * unit
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, y2 - unit + 1):
            draw.rectangle((x, y, min(x + dash, x2), y + unit - 1), fill=colour)
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, x2 - unit + 1):
            draw.rectangle((x, y, x + unit - 1, min(y + dash, y2)), fill=colour)


def _inside(box: FloatBox, picture: Image.Image) -> Box:
    """The box's outermost pixels inside the picture, both ends included."""
    x1, y1, x2, y2 = outer_box(box)
    right, bottom = picture.width - 1, picture.height - 1
    return (
        min(max(x1, 0), right), min(max(y1, 0), bottom),
        min(max(x2 - 1, 0), right), min(max(y2 - 1, 0), bottom),
    )  # fmt: skip
