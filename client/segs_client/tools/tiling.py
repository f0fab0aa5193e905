"""SEGS that cover a picture with tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segs_client.boxes import Size, checked_size, crop_region
from segs_client.contract import invalid
from segs_client.errors import contract_checked
from segs_client.pictures import Picture, size_of
from segs_client.segs import Seg, Segs, box_mask
from segs_client.tools.masks import intersected, subtracted
from segs_client.tools.regions import around, picture_mask


@contract_checked()
def tiles(
    size: Size | Picture,
    tile: int | Size = 512,
    *,
    overlap: int = 64,
    crop_factor: float = 1.5,
    crop_min_size: int | None = None,
    only_in: npt.ArrayLike | None = None,
    not_in: npt.ArrayLike | None = None,
    min_coverage: float = 0.0,
    label: str = "tile",
) -> Segs:
    """One SEG per tile, in reading order; every pixel of the picture is in a tile.

    All tiles have the same size, at most the picture's. The fewest tiles are spread evenly so that
    neighbours overlap by at least ``overlap``. Each tile's mask is the tile.

    Args:
        size: the picture, or its height and width.
        tile: side, or height and width, of a tile, px.
        overlap: least overlap of neighbours, px; less than a tile's sides.
        crop_factor: crop region over tile, see :func:`~segs_client.crop_region`.
        crop_min_size: least side of the crop region, px.
        only_in: mask [H, W] that the tiles' masks are intersected with.
        not_in: mask [H, W] that is subtracted from them.
        min_coverage: least mean of the mask over the tile, 0..1; tiles below it, or with an empty
            mask, are skipped.
        label: of every SEG.

    Raises:
        InvalidRequest: a size, an overlap or a mask that does not fit.

    Example:
        >>> [seg.bbox for seg in tiles((100, 180), 100, overlap=10)]
        [(0, 0, 100, 100), (80, 0, 180, 100)]
    """
    height, width = size_of(size)
    tile_height, tile_width = checked_size((tile, tile) if isinstance(tile, int) else tile)
    if not 0 <= overlap < min(tile_height, tile_width):
        allowed = f"0 … {min(tile_height, tile_width) - 1}, less than a tile's sides"
        raise invalid("overlap", "does not fit the tiles", value=overlap, allowed=allowed)
    boxes = [
        (x, y, min(x + tile_width, width), min(y + tile_height, height))
        for y in _starts(height, tile_height, overlap)
        for x in _starts(width, tile_width, overlap)
    ]
    items = []
    for box in boxes:
        # A crop region's ends are truncated, so it may lack the box's last row or column.
        region = around(crop_region(box, (height, width), crop_factor, crop_min_size), box)
        items.append(Seg(box_mask(box, region), box, region, label=label))
    segs = Segs((height, width), tuple(items))
    if only_in is not None:
        segs = intersected(segs, picture_mask(only_in, segs.size, "only_in"))
    if not_in is not None:
        segs = subtracted(segs, picture_mask(not_in, segs.size, "not_in"))
    return Segs(segs.size, tuple(seg for seg in segs if _covers(seg, min_coverage)))


def _covers(seg: Seg, share: float) -> bool:
    x1, y1, x2, y2 = seg.bbox
    filled = float(seg.mask.sum(dtype=np.float64))
    return filled > 0 and filled >= share * (x2 - x1) * (y2 - y1)


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """The positions of the tiles along one side."""
    if tile >= side:
        return [0]
    steps = -(-(side - tile) // (tile - overlap))
    return [(side - tile) * step // steps for step in range(steps + 1)]
