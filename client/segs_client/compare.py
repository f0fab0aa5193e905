"""A before/after picture of a detailed image."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFont

from segs_client.colors import srgb
from segs_client.contract import invalid
from segs_client.drawing import INK, outline, text_height
from segs_client.errors import contract_checked
from segs_client.pictures import open_upright
from segs_client.segs import Seg

_PAPER, _EDGE = (250, 250, 248), (214, 214, 210)


@contract_checked()
def compare_image(before: Image.Image, after: Image.Image, segs: Iterable[Seg]) -> Image.Image:
    """Two pictures side by side under captions, with each SEG's box and crop region outlined.

    Boxes are drawn solid, crop regions dashed, in one colour per SEG. Labels are on the left
    picture only, so that the right one shows the result.

    Args:
        before: the original picture.
        after: the same picture with the details pasted.
        segs: the segments, in pixels of these pictures.

    Returns:
        An RGB picture a little larger than both, in sRGB by the profiles of both.

    Raises:
        InvalidRequest: the pictures differ in size.

    Example:
        >>> picture = Image.new("RGB", (64, 48))
        >>> compare_image(picture, picture, []).mode
        'RGB'
    """
    before, after = (srgb(open_upright(picture)) for picture in (before, after))
    if before.size != after.size:
        raise invalid("after", "size differs", value=after.size, allowed=f"{before.size}")
    width, height = before.size
    text_px = text_height(before)
    margin = max(12, text_px)
    top = margin + text_px + margin // 2
    sheet = Image.new("RGB", (2 * width + 3 * margin, top + height + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    outlined = list(segs)
    for column, (picture, caption) in enumerate(((before, "before"), (after, "after"))):
        left = margin + column * (width + margin)
        draw.text(
            (left, margin), caption, fill=INK, font=ImageFont.load_default(text_px), anchor="lt"
        )
        outline(picture, outlined, labels=column == 0)
        sheet.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_EDGE)
    return sheet
