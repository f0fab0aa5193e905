"""Overlapping tiles of a picture too large for one call, and their blending weights.

Lengths are in latent cells of 8 px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch

OVERLAP = 24
"""Least overlap of neighbours: 192 px. The decoder's reach is 140 px, so that the middle of a tile
does not depend on its border. A difference of tone between two tiles is spread over the overlap."""


@dataclass(frozen=True)
class Cover:
    """One axis of a picture in tiles of equal size; the last tile is moved inwards."""

    starts: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, length: int, count: int) -> Cover:
        """Covers ``length`` cells with ``count`` tiles, as small as they can be.

        Example:
            >>> Cover.of(256, 3)
            Cover(starts=(0, 78, 154), size=102)
        """
        size = math.ceil((length + (count - 1) * OVERLAP) / count)
        starts = (min(i * (size - OVERLAP), length - size) for i in range(count))
        return cls(tuple(starts), size)

    def places(self, cell: int) -> list[slice]:
        """Each tile's place on the axis, with ``cell`` values per latent cell."""
        return [slice(start * cell, (start + self.size) * cell) for start in self.starts]

    def shares(self, cell: int) -> list[torch.Tensor]:
        """Each tile's weights ``[size · cell]``, with a linear ramp over the overlap; at every
        place the weights of all tiles add up to 1."""
        ramp = (torch.arange(self.size * cell, dtype=torch.float64) + 0.5) / (OVERLAP * cell)
        weights = torch.minimum(ramp, ramp.flip(0)).clamp(max=1)
        places = self.places(cell)
        total = torch.zeros(places[-1].stop, dtype=torch.float64)
        for place in places:
            total[place] += weights
        return [(weights / total[place]).float() for place in places]


@dataclass(frozen=True)
class Grid:
    """A picture in tiles, numbered row by row."""

    rows: Cover
    columns: Cover

    @classmethod
    def of(cls, height: int, width: int, most: int, side: int | None = None) -> Grid:
        """Covers a latent with the fewest tiles of at most ``most`` cells and no longer than
        ``side``: larger tiles differ less from the whole picture."""
        longest = max(height, width) if side is None else side
        if height * width <= most and max(height, width) <= longest:
            return cls(Cover.of(height, 1), Cover.of(width, 1))
        counts = (range(1, max(length // OVERLAP, 2)) for length in (height, width))
        grids = (
            cls(Cover.of(height, rows), Cover.of(width, columns))
            for rows, columns in product(*counts)
        )
        return min(
            grids,
            key=lambda grid: (
                max(grid.cells, most),
                max(grid.rows.size, grid.columns.size, longest),
                grid.count,
                grid.cells,
            ),
        )

    @property
    def cells(self) -> int:
        """Cells of a tile."""
        return self.rows.size * self.columns.size

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows.starts) * len(self.columns.starts)

    def cut(self, whole: torch.Tensor, cell: int) -> list[torch.Tensor]:
        """The tiles of a tensor ``[1, c, H, W]``, views of it."""
        return [whole[..., y, x] for y, x in self._places(cell)]

    def add(self, total: torch.Tensor, tile: torch.Tensor, number: int, cell: int) -> None:
        """Adds the weighted tile ``[1, c, h, w]`` of a number to ``total`` ``[1, c, H, W]``, which
        starts with zeros."""
        down, across = divmod(number, len(self.columns.starts))
        weights = self.rows.shares(cell)[down][:, None], self.columns.shares(cell)[across]
        y, x = self._places(cell)[number]
        total[..., y, x] += tile * weights[0].to(tile.device) * weights[1].to(tile.device)

    def _places(self, cell: int) -> list[tuple[slice, slice]]:
        return list(product(self.rows.places(cell), self.columns.places(cell)))
