"""Draws a training log's figures over the steps."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw

_WIDTH, _HEIGHT, _MARGIN = 480, 200, 44
_COLUMNS = 2


def draw_curves(path: Path) -> Image.Image:
    """One small diagram for each figure of a log of JSON lines with "step" in each."""
    series: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        notes = json.loads(line)
        for name, value in notes.items():
            if name != "step" and math.isfinite(value):
                series[name].append((notes["step"], value))
    rows = math.ceil(len(series) / _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _WIDTH, max(1, rows) * _HEIGHT), "white")
    for index, (name, points) in enumerate(series.items()):
        place = (index % _COLUMNS * _WIDTH, index // _COLUMNS * _HEIGHT)
        sheet.paste(_diagram(name, points), place)
    return sheet


def _diagram(name: str, points: list[tuple[float, float]]) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    values = sorted(value for _, value in points)
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    last = max(step for step, _ in points)

    def place(step: float, value: float) -> tuple[float, float]:
        across = step / max(1.0, last)
        up = min(1.0, (value - low) / (high - low)) if high > low else 0.5
        return (
            _MARGIN + across * (_WIDTH - 2 * _MARGIN),
            _HEIGHT - _MARGIN - up * (_HEIGHT - 2 * _MARGIN),
        )

    frame = (_MARGIN, _MARGIN, _WIDTH - _MARGIN, _HEIGHT - _MARGIN)
    pen.rectangle(frame, outline=(200, 200, 200))
    pen.line([place(*point) for point in points], fill=(30, 90, 180), width=2)
    pen.text((_MARGIN, 8), f"{name}: {points[-1][1]:.4g}", fill="black")
    pen.text((4, _MARGIN - 6), f"{high:.3g}", fill="black")
    pen.text((4, _HEIGHT - _MARGIN - 6), f"{low:.3g}", fill="black")
    pen.text((_WIDTH - 2 * _MARGIN, _HEIGHT - _MARGIN + 8), f"step {last:.0f}", fill="black")
    return image
