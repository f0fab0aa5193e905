"""Overlapping tiles of a picture too large for one call, and the weights that blend them.

Lengths count latent cells of 8 px.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import torch

MAX_TILE = 96
"""Longest side of a tile: 768 px, at which the decoder needs 2.2 GB where 1024 px take 3.4."""
OVERLAP = 16
"""That neighbours share, at least: 128 px. The content of a tile has all but forgotten its border
in the middle of that, and a shift of brightness spread over 128 px cannot be seen."""


@dataclass(frozen=True)
class Cover:
    """One axis of a picture in tiles of equal size: the fewest, and no larger than covers it. The
    last one is moved inwards."""

    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, length: int) -> Cover:
        """Covers ``length`` cells.

        Example:
            >>> Cover.of(256)
            Cover(starts=(0, 80, 160), size=96)
        """
        count = max(1, math.ceil((length - OVERLAP) / (MAX_TILE - OVERLAP)))
        size = math.ceil((length + (count - 1) * OVERLAP) / count)
        starts = (min(i * (size - OVERLAP), length - size) for i in range(count))
        return cls(tuple(starts), size)

    def places(self, cell: int) -> list[slice]:
        """Where each tile lies on the axis, with ``cell`` values to a latent cell."""
        return [slice(start * cell, (start + self.size) * cell) for start in self.starts]

    def shares(self, cell: int) -> list[torch.Tensor]:
        """Each tile's weights ``[size · cell]``, a linear ramp over the overlap; at every place of
        the axis the weights of all tiles add up to 1."""
        ramp = (torch.arange(self.size * cell, dtype=torch.float64) + 0.5) / (OVERLAP * cell)
        weights = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)
        places = self.places(cell)
        total = torch.zeros(places[-1].stop, dtype=torch.float64)
        for place in places:
            total[place] += weights
        return [(weights / total[place]).float() for place in places]


@dataclass(frozen=True)
class Grid:
    """Both axes of a picture in tiles; the tiles are counted row by row."""

    rows: Cover
    columns: Cover

    @classmethod
    def of(cls, height: int, width: int) -> Grid:
        """Covers a latent's sides."""
        return cls(Cover.of(height), Cover.of(width))

    @property
    def count(self) -> int:
        """Of the tiles."""
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, whole: torch.Tensor, cell: int) -> list[torch.Tensor]:
        """The tiles of a tensor ``[1, c, H, W]``, views of it."""
        return [whole[..., y, x] for y, x in self._places(cell)]

    def add(
        self, total: torch.Tensor, tiles: Iterable[torch.Tensor], first: int, cell: int
    ) -> None:
        """Adds to ``total`` ``[1, c, H, W]`` some tiles ``[c, h, w]``, the first being number
        ``first``, with their weights; zeros become the whole when all tiles are added."""
        weights = product(self.rows.shares(cell), self.columns.shares(cell))
        grid = list(zip(self._places(cell), weights, strict=True))
        for tile, ((y, x), (down, across)) in zip(tiles, grid[first:], strict=False):
            share = down[:, None].to(tile.device) * across.to(tile.device)
            total[0, :, y, x] += tile * share

    def _places(self, cell: int) -> list[tuple[slice, slice]]:
        return list(product(self.rows.places(cell), self.columns.places(cell)))
