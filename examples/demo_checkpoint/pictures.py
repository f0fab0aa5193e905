"""Whole pictures: a scene with several people, and crops as the detailer sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from examples.demo_checkpoint.canvas import Canvas, Frame, Points, ellipse, polygon
from examples.demo_checkpoint.person import COLOURS, PLACES, Person, draw_by_lot, jittered, shaded
from examples.demo_checkpoint.portrait import PARTS_PER_PERSON, Part, draw_person
from segs_client.arrays import ByteArray

Mask = NDArray[np.float32]

HEAD_PARTS = (Part.FACE, Part.WHITE, Part.IRIS, Part.HAIR, Part.HAT)


@dataclass(frozen=True)
class Figure:
    """A person in a picture: the middle of the face and its height in pixels."""

    person: Person
    x: float
    y: float
    height_px: float


@dataclass(frozen=True)
class Masks:
    """Of one person, each ``[H, W]`` 0…1: the head with hair and hat, the skin and features of the
    face, the eyes, their irises, hair and beard, the hat."""

    head: Mask
    face: Mask
    eyes: Mask
    irises: Mask
    hair: Mask
    hat: Mask


@dataclass(frozen=True)
class Drawing:
    """A picture ``[H, W, 3]``, who is in it (drawn in that order), what the background shows."""

    pixels: ByteArray
    figures: tuple[Figure, ...]
    background: str
    masks: tuple[Masks, ...] = ()


def draw_scene(seed: int, width: int = 640, height: int = 448) -> Drawing:
    """A scene with 3 to 8 people, with their masks."""
    rng = np.random.default_rng([seed, 0x5CE1E])
    return draw(*_crowd(rng, width, height), rng, (width, height), masks=True)


def draw_portrait(
    rng: np.random.Generator,
    width: int,
    height: int,
    others: Mapping[Person, Person] = MappingProxyType({}),
    masks: bool = False,
) -> Drawing:
    """A crop as the detailer cuts it: the first figure's head, often neighbours beside it.

    The head's height is 56 to 120 pixels, whatever the crop's size, and fits into it. ``others``
    are drawn in people's places: all else stays as it is without. ``masks``: also make the masks.
    """
    most = min(120.0, 0.72 * min(width, height))
    tall = float(rng.uniform(min(52.0, 0.9 * most), most))
    room_x, room_y = width - 0.9 * tall, height - 1.25 * tall
    x = width / 2 + float(np.clip(rng.normal(0, 0.22), -0.5, 0.5)) * max(0.0, room_x)
    y = height / 2 + 0.1 * tall + float(np.clip(rng.normal(0, 0.22), -0.5, 0.5)) * max(0.0, room_y)
    figures = [Figure(draw_by_lot(rng), x, y, tall)]
    for side in (-1, 1):
        if rng.random() < 0.3:
            away = tall * rng.uniform(1.15, 1.9)
            size = tall * rng.uniform(0.75, 1.25)
            neighbour = Figure(
                draw_by_lot(rng), x + side * away, y + tall * rng.uniform(-0.4, 0.4), size
            )
            figures.insert(int(rng.integers(2)), neighbour)
    figures = [replace(each, person=others.get(each.person, each.person)) for each in figures]
    return draw(figures, _background(rng), rng, (width, height), masks)


def main_figure(drawing: Drawing) -> Figure:
    """Of a portrait: the figure nearest to the middle."""
    height, width = drawing.pixels.shape[:2]
    return min(drawing.figures, key=lambda each: np.hypot(each.x - width / 2, each.y - height / 2))


def draw(
    figures: Sequence[Figure],
    background: str,
    rng: np.random.Generator,
    size: tuple[int, int],
    masks: bool = False,
) -> Drawing:
    """The figures, the first the farthest, on the background; one light on all.

    Args:
        figures: at most 15.
        background: a key of :data:`BACKGROUNDS` or the name of a colour.
        rng: of the background's details and the light.
        size: width and height in pixels.
        masks: also make the masks.
    """
    width, height = size
    canvas = Canvas(width, height, (255, 255, 255), labelled=masks)
    whole = Frame(0, 0, 1)
    draw_background(canvas, background, whole, rng)
    for index, figure in enumerate(figures):
        draw_person(canvas, figure.person, Frame(figure.x, figure.y, figure.height_px), index)
    made = tuple(_masks(canvas, index) for index in range(len(figures))) if masks else ()
    return Drawing(_lit(canvas.picture(), rng), tuple(figures), background, made)


def _masks(canvas: Canvas, index: int) -> Masks:
    def of(*parts: Part) -> Mask:
        return canvas.coverage([PARTS_PER_PERSON * index + part for part in parts])

    return Masks(
        head=of(*HEAD_PARTS),
        face=of(Part.FACE, Part.WHITE, Part.IRIS),
        eyes=of(Part.WHITE, Part.IRIS),
        irises=of(Part.IRIS),
        hair=of(Part.HAIR),
        hat=of(Part.HAT),
    )


def _crowd(rng: np.random.Generator, width: int, height: int) -> tuple[list[Figure], str]:
    """Three to eight people, in one row or in two, the back row higher and smaller."""
    count = int(rng.integers(3, 9))
    front = count if count <= 4 else (count + 1) // 2
    figures = []
    for row, number in ((1, count - front), (0, front)):
        for place in range(number):
            step = width / number
            tall = min(0.2 * height, 0.5 * step) * rng.uniform(0.82, 1.0) * (0.88 if row else 1)
            x = step * (place + 0.5) + 0.12 * step * rng.uniform(-1, 1)
            base = 0.32 if row else (0.66 if count > front else 0.52)
            y = height * (base + 0.04 * rng.uniform(-1, 1))
            figures.append(Figure(draw_by_lot(rng), x, y, tall))
    return figures, _background(rng)


def _background(rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return tuple(COLOURS)[int(rng.integers(len(COLOURS)))]
    return PLACES[int(rng.integers(len(PLACES)))]


def draw_background(canvas: Canvas, name: str, frame: Frame, rng: np.random.Generator) -> None:
    """Fills the canvas; ``name`` is a colour's or park, room, beach or city."""
    width, height = canvas.size
    if name in COLOURS:
        canvas.fill(frame, _box(0, 0, width, height), jittered(COLOURS[name], rng))
        return
    top, bottom = {
        "park": ((168, 212, 242), (122, 176, 92)),
        "room": ((232, 214, 184), (150, 108, 76)),
        "beach": ((150, 208, 240), (240, 220, 160)),
        "city": ((206, 216, 228), (130, 130, 138)),
    }[name]
    horizon = height * rng.uniform(0.55, 0.8)
    canvas.fill(frame, _box(0, 0, width, height), jittered(top, rng))
    for _ in range(max(2, round(width / 90))):
        _furnish(canvas, name, frame, rng, horizon)
    canvas.fill(frame, _box(0, horizon, width, height), jittered(bottom, rng))


def _furnish(
    canvas: Canvas, name: str, frame: Frame, rng: np.random.Generator, horizon: float
) -> None:
    """One thing on or above the horizon."""
    width, _ = canvas.size
    x, size = rng.uniform(0, width), rng.uniform(30, 90)
    if name == "park":
        trunk = _box(x - 0.08 * size, horizon - size, x + 0.08 * size, horizon + 1)
        canvas.fill(frame, trunk, jittered((112, 76, 48), rng))
        crown = ellipse(x, horizon - 1.1 * size, 0.45 * size, 0.5 * size)
        canvas.fill(frame, crown, jittered((66, 140, 72), rng))
    elif name == "room":
        y = rng.uniform(0.1, 0.6) * horizon
        colour = jittered(tuple(COLOURS.values())[int(rng.integers(len(COLOURS)))], rng)
        canvas.fill(frame, _box(x, y, x + size, y + 0.8 * size), (120, 84, 56))
        inner = _box(x + 0.1 * size, y + 0.1 * size, x + 0.9 * size, y + 0.7 * size)
        canvas.fill(frame, inner, colour)
    elif name == "beach":
        sea = _box(0, horizon - 0.3 * size, width, horizon + 1)
        canvas.fill(frame, sea, jittered((60, 140, 200), rng))
        cloud_y = rng.uniform(0.05, 0.5) * horizon
        canvas.fill(frame, ellipse(x, cloud_y, 0.6 * size, 0.2 * size), (246, 248, 250))
    else:
        grey = shaded(jittered((150, 150, 164), rng), rng.uniform(0.7, 1.2))
        canvas.fill(frame, _box(x, horizon - 1.6 * size, x + 0.7 * size, horizon + 1), grey)
        for row in range(3):
            y = horizon - (1.4 - 0.45 * row) * size
            pane = _box(x + 0.15 * size, y, x + 0.55 * size, y + 0.2 * size)
            canvas.fill(frame, pane, (250, 236, 160))


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def _lit(pixels: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Soft light from one side."""
    height, width = pixels.shape[:2]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.16)
    across = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle))
    down = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(np.sin(angle))
    light = 1 - np.float32(strength) * (0.5 + 0.5 * (across[None, :] + down[:, None]))
    return np.clip(pixels * light[:, :, None] + 0.5, 0, 255).astype(np.uint8)
