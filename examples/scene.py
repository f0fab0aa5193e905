"""A drawn picture with faces, and the mask of each: something to detail without a photograph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_OVERSAMPLING = 4


@dataclass(frozen=True)
class Face:
    """A face: centre and half height in pixels, colours as RGB."""

    x: int
    y: int
    radius: int
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    eyes: tuple[int, int, int]

    @property
    def oval(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of the face's outline."""
        half_width = 0.8 * self.radius
        return (
            self.x - half_width,
            self.y - self.radius,
            self.x + half_width,
            self.y + self.radius,
        )


FACES = (
    Face(112, 150, 52, (236, 188, 150), (92, 54, 30), (60, 110, 170)),
    Face(262, 118, 44, (196, 140, 100), (34, 26, 24), (80, 50, 30)),
    Face(402, 162, 56, (250, 214, 186), (214, 160, 60), (70, 130, 80)),
    Face(318, 268, 30, (150, 100, 70), (20, 16, 16), (50, 34, 24)),
)


def draw(width: int = 512, height: int = 336) -> tuple[Image.Image, list[NDArray[np.float32]]]:
    """The picture, and per face the mask ``[height, width]`` of its oval, 0…1."""
    scale = _OVERSAMPLING
    image = Image.new("RGB", (width * scale, height * scale), (182, 210, 230))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0.74 * height * scale, width * scale, height * scale), fill=(122, 150, 96))
    pen.ellipse(_scaled((430, 20, 480, 70)), fill=(252, 226, 140))
    masks = []
    for face in sorted(FACES, key=lambda face: face.y):
        _draw_body(pen, face, height)
        _draw_head(pen, face)
    for face in FACES:
        mask = Image.new("L", image.size)
        ImageDraw.Draw(mask).ellipse(_scaled(face.oval), fill=255)
        small = mask.resize((width, height), Image.Resampling.BOX)
        masks.append(np.asarray(small, dtype=np.float32) / 255)
    return image.resize((width, height), Image.Resampling.LANCZOS), masks


def _scaled(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    return tuple(edge * _OVERSAMPLING for edge in box)


def _draw_body(pen: ImageDraw.ImageDraw, face: Face, height: int) -> None:
    r = face.radius
    top = face.y + 1.1 * r
    shirt = tuple(255 - part // 2 for part in face.hair)
    pen.rectangle(
        _scaled((face.x - 0.3 * r, face.y, face.x + 0.3 * r, top + 0.4 * r)), fill=face.skin
    )
    pen.rounded_rectangle(
        _scaled((face.x - 1.4 * r, top, face.x + 1.4 * r, height + 2 * r)),
        radius=int(0.7 * r * _OVERSAMPLING),
        fill=shirt,
    )


def _draw_head(pen: ImageDraw.ImageDraw, face: Face) -> None:
    r, x, y = face.radius, face.x, face.y
    pen.ellipse(_scaled((x - 0.98 * r, y - 1.25 * r, x + 0.98 * r, y + 0.7 * r)), fill=face.hair)
    pen.ellipse(_scaled(face.oval), fill=face.skin)
    pen.chord(_scaled((x - 0.8 * r, y - 1.1 * r, x + 0.8 * r, y)), 180, 360, fill=face.hair)
    for side in (-1, 1):
        eye_x, eye_y = x + side * 0.32 * r, y - 0.05 * r
        for size, colour in ((0.17, (255, 255, 255)), (0.1, face.eyes), (0.05, (10, 10, 10))):
            pen.ellipse(
                _scaled((eye_x - size * r, eye_y - size * r, eye_x + size * r, eye_y + size * r)),
                fill=colour,
            )
    shade = tuple(int(part * 0.82) for part in face.skin)
    pen.polygon(
        [
            (edge_x * _OVERSAMPLING, edge_y * _OVERSAMPLING)
            for edge_x, edge_y in (
                (x, y + 0.05 * r),
                (x - 0.1 * r, y + 0.35 * r),
                (x + 0.1 * r, y + 0.35 * r),
            )
        ],
        fill=shade,
    )
    pen.chord(
        _scaled((x - 0.32 * r, y + 0.3 * r, x + 0.32 * r, y + 0.72 * r)), 0, 180, fill=(178, 60, 70)
    )
