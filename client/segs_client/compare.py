"""A before/after picture of a detailed image, for people to look at."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from segs_client.boxes import Box
from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.segs import Seg

_PAPER, _INK, _EDGE = (250, 250, 248), (40, 44, 52), (214, 214, 210)
_COLOURS = (
    (255, 99, 71), (64, 156, 255), (255, 193, 37), (46, 204, 113), (214, 112, 255), (0, 206, 209)
)  # fmt: skip
_DASH = 6


@contract_checked()
def compare_image(before: Image.Image, after: Image.Image, segs: Iterable[Seg]) -> Image.Image:
    """Two pictures side by side under captions, each SEG's box and crop region outlined.

    Boxes are drawn solid, crop regions dashed, in one colour per SEG; labels stand on the left
    picture only, so that the right one shows what was redrawn.

    Args:
        before: the picture as it was.
        after: the same picture with the details pasted.
        segs: the segments, in pixels of these pictures.

    Returns:
        An RGB picture a little larger than both.

    Raises:
        InvalidRequest: the pictures differ in size.

    Example:
        >>> picture = Image.new("RGB", (64, 48))
        >>> compare_image(picture, picture, []).mode
        'RGB'
    """
    if before.size != after.size:
        raise invalid("after", "size differs", value=after.size, allowed=f"{before.size}")
    width, height = before.size
    unit = max(1, round(max(width, height) / 600))  # thickness of a line, px
    text_px = max(14, round(max(width, height) / 36))
    margin = max(12, text_px)
    top = margin + text_px + margin // 2
    sheet = Image.new("RGB", (2 * width + 3 * margin, top + height + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    outlined = list(segs)
    for column, (picture, caption) in enumerate(((before, "before"), (after, "after"))):
        left = margin + column * (width + margin)
        draw.text(
            (left, margin), caption, fill=_INK, font=ImageFont.load_default(text_px), anchor="lt"
        )
        panel = picture.convert("RGB")
        _outline(panel, outlined, unit, text_px if column == 0 else 0)
        sheet.paste(panel, (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_EDGE)
    return sheet


def _outline(panel: Image.Image, segs: list[Seg], unit: int, text_px: int) -> None:
    """Draws outlines onto ``panel``; and labels, unless ``text_px`` is 0."""
    draw = ImageDraw.Draw(panel)
    for index, seg in enumerate(segs):
        colour = _COLOURS[index % len(_COLOURS)]
        _dashed(draw, _inside(seg.crop_region, panel), colour, unit)
        draw.rectangle(_inside(seg.bbox, panel), outline=colour, width=unit + 1)
    for index, seg in enumerate(segs if text_px else ()):
        text = f"{index + 1} {seg.label}".strip()
        _tag(draw, _inside(seg.bbox, panel), text, _COLOURS[index % len(_COLOURS)], text_px)


def _tag(
    draw: ImageDraw.ImageDraw, box: Box, text: str, colour: tuple[int, int, int], text_px: int
) -> None:
    """A label on a tag over the box's upper left corner, or inside where there is no room."""
    font = ImageFont.load_default(max(10, round(text_px * 0.7)))
    pad = max(2, text_px // 6)
    x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font, anchor="lt")
    width, height = int(x2 - x1) + 2 * pad, int(y2 - y1) + 2 * pad
    x = max(0, min(box[0], draw.im.size[0] - width))
    y = box[1] - height if box[1] >= height else box[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + pad, y + pad), text, fill=_INK, font=font, anchor="lt")


def _dashed(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], unit: int) -> None:
    x1, y1, x2, y2 = box
    dash = _DASH * unit
    for x in range(x1, x2 + 1, 2 * dash):
        for y in (y1, y2 - unit + 1):
            draw.rectangle((x, y, min(x + dash, x2), y + unit - 1), fill=colour)
    for y in range(y1, y2 + 1, 2 * dash):
        for x in (x1, x2 - unit + 1):
            draw.rectangle((x, y, x + unit - 1, min(y + dash, y2)), fill=colour)


def _inside(box: Box, panel: Image.Image) -> Box:
    """The box's outermost pixels that lie in the picture, both ends included."""
    x1, y1, x2, y2 = box
    right, bottom = panel.width - 1, panel.height - 1
    return min(x1, right), min(y1, bottom), min(x2 - 1, right), min(y2 - 1, bottom)
