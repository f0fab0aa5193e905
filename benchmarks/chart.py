"""Lines over time, drawn small and plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

Line = Sequence[tuple[float, float]]
"""Points (x, y)."""
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 1000, 260, 70, 230, 30, 30
_MARKS = 4


@dataclass(frozen=True)
class Chart:
    """One frame: a title with the unit of y, and lines by name; y begins at 0."""

    title: str
    lines: Mapping[str, Line]


def draw(path: Path, charts: Sequence[Chart], x_title: str) -> None:
    """Writes the charts, one below the other, as a PNG."""
    image = Image.new("RGB", (_WIDTH, _HEIGHT * len(charts)), "white")
    pen = ImageDraw.Draw(image)
    for row, chart in enumerate(charts):
        _draw_chart(pen, chart, row * _HEIGHT, x_title)
    image.save(path)


def _draw_chart(pen: ImageDraw.ImageDraw, chart: Chart, top: int, x_title: str) -> None:
    points = [point for line in chart.lines.values() for point in line]
    most_x = max([x for x, _ in points], default=0.0) or 1.0
    most_y = 1.1 * max([y for _, y in points], default=0.0) or 1.0
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    low = top + _TOP + height

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + width * x / most_x, low - height * y / most_y

    pen.text((_LEFT, top + 8), chart.title, fill="black")
    form = ".0f" if most_y >= _MARKS else ".2g"
    for mark in range(_MARKS + 1):
        x, y = most_x * mark / _MARKS, most_y * mark / _MARKS
        pen.line([place(0, y), place(most_x, y)], fill="#dddddd")
        pen.text((8, place(0, y)[1] - 6), f"{y:{form}}", fill="black")
        pen.text((place(x, 0)[0] - 8, low + 6), f"{x:.0f}", fill="black")
    pen.text((_LEFT + width + 10, low + 6), x_title, fill="black")
    for index, (name, line) in enumerate(chart.lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        pen.line([place(x, y) for x, y in line], fill=colour, width=2)
        pen.text((_LEFT + width + 10, top + _TOP + 13 * index), name, fill=colour)
