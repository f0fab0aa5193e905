"""Draws a person: shoulders, head, hair, face, hat.

A head's own coordinates: the origin in the middle of the face, the unit its height, y downwards;
so chin and crown of the bare head lie at y = ±0.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from examples.demo_checkpoint.canvas import Canvas, Frame, Points, arc, ellipse, polygon
from examples.demo_checkpoint.person import (
    BALD,
    COLOURS,
    EYE_COLOURS,
    HAIR_COLOURS,
    SKINS,
    Colour,
    Person,
    jittered,
    shaded,
)

_HALF_WIDTH = 0.4
_INK: Colour = (44, 30, 34)
_WHITE: Colour = (250, 250, 250)
_LIP: Colour = (190, 60, 70)
_EYE_X, _EYE_Y = 0.165, -0.02


class Part(IntEnum):
    """What a pixel shows of a person; a label is ``16 × person + part``."""

    BODY = 1
    FACE = 2
    WHITE = 3
    IRIS = 4
    HAIR = 5
    HAT = 6


PARTS_PER_PERSON = 16


@dataclass(frozen=True)
class _Pen:
    """Draws parts of one person."""

    canvas: Canvas
    frame: Frame
    first_label: int

    def fill(self, part: Part, points: Points, colour: Colour) -> None:
        self.canvas.fill(self.frame, points, colour, self.first_label + part)

    def stroke(self, part: Part, points: Points, width: float, colour: Colour) -> None:
        self.canvas.stroke(self.frame, points, width, colour, self.first_label + part)


@dataclass(frozen=True)
class _Colours:
    skin: Colour
    hair: Colour
    eyes: Colour
    hat: Colour
    shirt: Colour


def draw_person(canvas: Canvas, person: Person, frame: Frame, index: int = 0) -> None:
    """Draws the person, the head's origin and height as the frame has them.

    The frame's own turn is replaced by the person's; ``index``, 0…15, numbers the labels.
    """
    rng = np.random.default_rng(person.seed)
    colours = _Colours(
        skin=jittered(SKINS[person.skin], rng),
        hair=jittered(HAIR_COLOURS[person.hair], rng),
        eyes=jittered(EYE_COLOURS[person.eyes], rng),
        hat=jittered(COLOURS[person.hat_colour], rng),
        shirt=jittered(COLOURS[person.shirt], rng),
    )
    first_label = PARTS_PER_PERSON * index
    upright = _Pen(canvas, Frame(frame.x, frame.y, frame.unit_px), first_label)
    head = _Pen(canvas, Frame(frame.x, frame.y, frame.unit_px, person.tilt_rad), first_label)
    _body(upright, colours, long_hair=person.hair_style == "long", head=head)
    if person.hair_style in _BACKS:
        _BACKS[person.hair_style](head, colours.hair)
    _head(head, colours.skin)
    _face(head, person, colours)
    if person.hair_style != BALD:
        _fringe(head, person, colours.hair)
    if person.hat:
        _HATS_DRAWN[person.hat](head, colours.hat)
    if person.glasses:
        _glasses(head, person)


def _body(pen: _Pen, colours: _Colours, long_hair: bool, head: _Pen) -> None:
    if long_hair:
        head.fill(Part.HAIR, _long_hair(), colours.hair)
    shoulders = np.concatenate(
        [
            arc(-0.42, 0.95, 0.3, 0.24, np.pi, 1.5 * np.pi),
            arc(0.42, 0.95, 0.3, 0.24, 1.5 * np.pi, 2 * np.pi),
            polygon((0.8, 6.0), (-0.8, 6.0)),
        ]
    )
    pen.fill(Part.BODY, shoulders, colours.shirt)
    neck = polygon((-0.15, 0.3), (0.15, 0.3), (0.17, 0.72), (0.0, 0.8), (-0.17, 0.72))
    pen.fill(Part.BODY, neck, shaded(colours.skin, 0.84))


def _long_hair() -> Points:
    return np.concatenate(
        [
            arc(0, -0.1, 0.52, 0.5, np.pi, 2 * np.pi),
            polygon((0.56, 0.55), (0.5, 0.72), (-0.5, 0.72), (-0.56, 0.55)),
        ]
    )


def _curls(pen: _Pen, colour: Colour) -> None:
    for angle in np.linspace(0.9 * np.pi, 2.1 * np.pi, 10):
        pen.fill(
            Part.HAIR,
            ellipse(0.42 * np.cos(angle), -0.14 + 0.42 * np.sin(angle), 0.17, 0.17),
            colour,
        )


def _bun(pen: _Pen, colour: Colour) -> None:
    pen.fill(Part.HAIR, ellipse(0, -0.62, 0.2, 0.19), colour)
    _cap_of_hair(pen, colour)


def _cap_of_hair(pen: _Pen, colour: Colour) -> None:
    pen.fill(Part.HAIR, ellipse(0, -0.16, 0.45, 0.4), colour)


_BACKS: dict[str, Callable[[_Pen, Colour], None]] = {
    "curly": _curls,
    "bun": _bun,
    "short": _cap_of_hair,
}


def _head(pen: _Pen, skin: Colour) -> None:
    for side in (-1, 1):
        pen.fill(Part.FACE, ellipse(0.41 * side, 0.03, 0.075, 0.1), shaded(skin, 0.93))
    # A jaw somewhat narrower than the skull.
    angles = np.linspace(0, 2 * np.pi, 60)
    x, y = np.cos(angles), np.sin(angles)
    width = _HALF_WIDTH * (1 - 0.12 * np.clip(y, 0, 1) ** 2)
    pen.fill(Part.FACE, np.stack([x * width, 0.5 * y], axis=1), skin)


def _face(pen: _Pen, person: Person, colours: _Colours) -> None:
    dx, dy = 0.05 * person.yaw, 0.03 * person.pitch
    _beard(pen, person, colours.hair, dx, dy)
    for side in (-1, 1):
        # The eye on the far side of a turned head looks narrower.
        narrowed = 1 - 0.12 * max(0.0, side * person.yaw)
        x, y = side * _EYE_X + dx, _EYE_Y + dy
        pen.fill(Part.WHITE, ellipse(x, y, 0.115 * narrowed, 0.1), _WHITE)
        gaze = 0.02 * person.yaw
        pen.fill(Part.IRIS, ellipse(x + gaze, y + 0.005, 0.07 * narrowed, 0.075), colours.eyes)
        pen.fill(Part.WHITE, ellipse(x + gaze, y + 0.005, 0.032, 0.034), (16, 14, 18))
        pen.fill(Part.WHITE, ellipse(x + gaze + 0.03, y - 0.03, 0.019, 0.019), _WHITE)
        brow = np.add(_brow(person.mouth, side), (x, y - 0.165))
        brow_colour = shaded(colours.hair, 0.7) if person.hair_style != BALD else _INK
        pen.stroke(Part.FACE, brow, 0.034, brow_colour)
    nose = polygon((0.0, 0.02), (0.045 + 0.02 * person.yaw, 0.14), (-0.03, 0.145))
    pen.stroke(Part.FACE, np.add(nose, (1.4 * dx, dy)), 0.026, shaded(colours.skin, 0.68))
    _MOUTHS_DRAWN[person.mouth](pen, dx, 0.285 + 0.7 * dy)


def _brow(mouth: str, side: int) -> Points:
    inner, outer = {"surprised": (-0.03, -0.03), "sad": (-0.035, 0.025)}.get(mouth, (0.01, 0.0))
    return polygon((-0.09 * side, inner), (0.0, -0.018), (0.09 * side, outer))


def _beard(pen: _Pen, person: Person, hair: Colour, dx: float, dy: float) -> None:
    if person.beard == "beard":
        jaw = arc(0, 0.02, 0.395, 0.52, 0.02 * np.pi, 0.98 * np.pi)
        lip = arc(dx, 0.3 + dy, 0.31, 0.17, np.pi, 2 * np.pi)
        pen.fill(Part.HAIR, np.concatenate([jaw, lip]), hair)
    elif person.beard == "moustache":
        for side in (-1, 1):
            half = polygon((0, 0.17), (0.1, 0.185), (0.2, 0.26), (0.09, 0.245), (0, 0.225))
            pen.fill(Part.HAIR, half * (side, 1) + (dx, dy), hair)


def _smile(pen: _Pen, x: float, y: float) -> None:
    pen.fill(Part.FACE, arc(x, y - 0.03, 0.15, 0.12, 0, np.pi), _LIP)
    pen.fill(Part.FACE, arc(x, y - 0.028, 0.12, 0.05, 0, np.pi), _WHITE)


def _straight(pen: _Pen, x: float, y: float) -> None:
    pen.stroke(Part.FACE, polygon((x - 0.11, y + 0.01), (x + 0.11, y + 0.01)), 0.04, _LIP)


def _open(pen: _Pen, x: float, y: float) -> None:
    pen.fill(Part.FACE, ellipse(x, y + 0.02, 0.075, 0.09), _LIP)
    pen.fill(Part.FACE, ellipse(x, y + 0.025, 0.045, 0.058), (70, 14, 24))


def _down(pen: _Pen, x: float, y: float) -> None:
    bow = arc(x, y + 0.08, 0.12, 0.09, 1.08 * np.pi, 1.92 * np.pi)
    pen.stroke(Part.FACE, bow, 0.04, _LIP)


_MOUTHS_DRAWN: dict[str, Callable[[_Pen, float, float], None]] = {
    "smiling": _smile,
    "serious": _straight,
    "surprised": _open,
    "sad": _down,
}


def _fringe(pen: _Pen, person: Person, hair: Colour) -> None:
    top = arc(0, -0.06, 0.435, 0.475, 1.03 * np.pi, 1.97 * np.pi)
    if person.hair_style == "spiky":
        angles = np.linspace(0.98 * np.pi, 2.02 * np.pi, 15)
        radius = np.where(np.arange(15) % 2 == 0, 0.4, 0.64)
        spikes = np.stack([radius * np.cos(angles), -0.13 + radius * np.sin(angles)], axis=1)
        hairline = polygon((0.3, -0.24), (0.1, -0.21), (-0.1, -0.21), (-0.3, -0.24))
        pen.fill(Part.HAIR, np.concatenate([spikes, hairline]), hair)
        return
    hairline = {
        "short": polygon((0.33, -0.27), (0.12, -0.25), (-0.16, -0.31), (-0.33, -0.2)),
        "long": polygon((0.36, 0.05), (0.3, -0.2), (0.0, -0.36), (-0.3, -0.2), (-0.36, 0.05)),
        "curly": polygon((0.32, -0.22), (0.16, -0.27), (0, -0.23), (-0.16, -0.27), (-0.32, -0.22)),
        "bun": polygon((0.33, -0.22), (0.2, -0.33), (0.0, -0.36), (-0.2, -0.33), (-0.33, -0.22)),
    }[person.hair_style]
    pen.fill(Part.HAIR, np.concatenate([top, hairline]), hair)


def _beanie(pen: _Pen, colour: Colour) -> None:
    pen.fill(Part.HAT, arc(0, -0.24, 0.45, 0.42, np.pi, 2 * np.pi), colour)
    band = polygon((-0.47, -0.32), (0.47, -0.32), (0.47, -0.19), (-0.47, -0.19))
    pen.fill(Part.HAT, band, shaded(colour, 0.72))


def _cap(pen: _Pen, colour: Colour) -> None:
    pen.fill(Part.HAT, arc(0, -0.24, 0.45, 0.36, np.pi, 2 * np.pi), colour)
    pen.fill(Part.HAT, ellipse(0.14, -0.23, 0.46, 0.06), shaded(colour, 0.72))


def _wide_hat(pen: _Pen, colour: Colour) -> None:
    crown = polygon((-0.33, -0.27), (-0.28, -0.72), (0.28, -0.72), (0.33, -0.27))
    pen.fill(Part.HAT, crown, colour)
    ribbon = polygon((-0.33, -0.27), (-0.315, -0.39), (0.315, -0.39), (0.33, -0.27))
    pen.fill(Part.HAT, ribbon, shaded(colour, 0.55))
    pen.fill(Part.HAT, ellipse(0, -0.26, 0.64, 0.075), colour)


_HATS_DRAWN: dict[str, Callable[[_Pen, Colour], None]] = {
    "beanie": _beanie,
    "cap": _cap,
    "hat": _wide_hat,
}


def _glasses(pen: _Pen, person: Person) -> None:
    dx, dy = 0.05 * person.yaw, 0.03 * person.pitch
    for side in (-1, 1):
        x, y = side * _EYE_X + dx, _EYE_Y + dy
        pen.stroke(Part.FACE, ellipse(x, y, 0.145, 0.14), 0.03, _INK)
        pen.stroke(Part.FACE, polygon((x + 0.145 * side, y), (side * 0.41, y - 0.02)), 0.03, _INK)
    bridge = arc(dx, _EYE_Y + dy, 0.03, 0.03, np.pi, 2 * np.pi)
    pen.stroke(Part.FACE, bridge, 0.03, _INK)
