"""Who is drawn: a person's attributes, drawn by lot, and the words for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Colour = tuple[int, int, int]

SKINS: Mapping[str, Colour] = {
    "pale": (255, 226, 204),
    "light": (242, 196, 156),
    "tan": (214, 158, 108),
    "brown": (158, 104, 66),
    "dark": (100, 64, 44),
}
HAIR_COLOURS: Mapping[str, Colour] = {
    "black": (34, 30, 36),
    "brown": (112, 66, 32),
    "blonde": (244, 206, 92),
    "red": (204, 62, 26),
    "grey": (168, 168, 174),
    "blue": (44, 92, 226),
    "green": (40, 160, 70),
    "pink": (244, 112, 184),
}
EYE_COLOURS: Mapping[str, Colour] = {
    "brown": (120, 68, 26),
    "blue": (30, 110, 236),
    "green": (30, 164, 60),
    "purple": (150, 50, 210),
}
COLOURS: Mapping[str, Colour] = {
    "red": (214, 40, 40),
    "blue": (40, 90, 214),
    "green": (50, 160, 70),
    "yellow": (246, 210, 50),
    "orange": (244, 136, 36),
    "purple": (136, 60, 180),
    "pink": (246, 140, 190),
    "white": (244, 244, 240),
    "black": (40, 40, 46),
}
HAIR_STYLES = ("short", "long", "curly", "spiky", "bun")
BALD = "bald"
MOUTHS = ("smiling", "serious", "surprised", "sad")
BEARDS = ("", "beard", "moustache")
HATS = ("", "beanie", "cap", "hat")
PLACES = ("park", "room", "beach", "city")

_COLOUR_JITTER = 9
_PLAIN_HAT_SHARE = 0.35
_RECOLOURED_SHARE = 0.6
_MAX_TILT_RAD = 0.24


@dataclass(frozen=True)
class Person:
    """A person's looks: names of the tables above, and the pose.

    ``tilt_rad`` turns the head, clockwise; ``yaw`` and ``pitch``, −1…1, turn the face to the right
    and down; ``seed`` jitters colours and proportions.
    """

    skin: str
    hair_style: str
    hair: str
    eyes: str
    mouth: str
    beard: str
    glasses: bool
    hat: str
    hat_colour: str
    shirt: str
    tilt_rad: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    seed: int = 0

    def attributes(self) -> tuple[str, ...]:
        """The words for what can be seen, one phrase per attribute."""
        bald = self.hair_style == BALD
        return (
            f"{self.mouth} face",
            f"{self.skin} skin",
            BALD if bald else f"{self.hair_style} {self.hair} hair",
            f"{self.eyes} eyes",
            *(["glasses"] if self.glasses else []),
            *([f"{self.hair} {self.beard}"] if self.beard else []),
            *([f"{self.hat_colour} {self.hat}"] if self.hat else []),
            f"{self.shirt} shirt",
        )

    def prompt(self) -> str:
        """All attributes, in order."""
        return ", ".join(self.attributes())


def draw_by_lot(rng: np.random.Generator) -> Person:
    """A person at random; every attribute is independent of the others."""
    return Person(
        skin=_one_of(rng, SKINS),
        hair_style=BALD if rng.random() < 0.08 else _one_of(rng, HAIR_STYLES),
        hair=_one_of(rng, HAIR_COLOURS),
        eyes=_one_of(rng, EYE_COLOURS),
        mouth=_one_of(rng, MOUTHS),
        beard="" if rng.random() < 0.65 else _one_of(rng, BEARDS[1:]),
        glasses=bool(rng.random() < 0.3),
        hat="" if rng.random() < 1 - _PLAIN_HAT_SHARE else _one_of(rng, HATS[1:]),
        hat_colour=_one_of(rng, COLOURS),
        shirt=_one_of(rng, COLOURS),
        tilt_rad=float(np.clip(rng.normal(0, 0.1), -_MAX_TILT_RAD, _MAX_TILT_RAD)),
        yaw=float(rng.uniform(-1, 1)),
        pitch=float(rng.uniform(-1, 1)),
        seed=int(rng.integers(2**31)),
    )


def upright(person: Person) -> Person:
    """The same person, looking straight ahead."""
    return replace(person, tilt_rad=0.0, yaw=0.0, pitch=0.0)


def caption(attributes: tuple[str, ...], rng: np.random.Generator) -> str:
    """A caption as a user may write it: some attributes left out, often in another order."""
    kept = [each for each in attributes if rng.random() > 0.2]
    if rng.random() < 0.5:
        rng.shuffle(kept)
    return ", ".join(kept)


def recoloured(person: Person, words: str, rng: np.random.Generator) -> Person:
    """The person with other colours of some of what the words name: eyes, hair, hat."""
    named = {
        "eyes": (f"{person.eyes} eyes", EYE_COLOURS),
        "hair": (f"{person.hair} hair", HAIR_COLOURS),
        "hat_colour": (f"{person.hat_colour} {person.hat}" if person.hat else "no hat", COLOURS),
    }
    changes: dict[str, Any] = {}
    for name, (phrase, colours) in named.items():
        if phrase in words and rng.random() < _RECOLOURED_SHARE:
            others = [each for each in colours if each != getattr(person, name)]
            changes[name] = others[int(rng.integers(len(others)))]
    return replace(person, **changes)


def jittered(colour: Colour, rng: np.random.Generator) -> Colour:
    """A shade near the colour."""
    red, green, blue = np.clip(np.add(colour, rng.normal(0, _COLOUR_JITTER, 3)), 0, 255).astype(int)
    return int(red), int(green), int(blue)


def shaded(colour: Colour, factor: float) -> Colour:
    """The colour darker (below 1) or lighter (above)."""
    red, green, blue = (int(min(255, part * factor)) for part in colour)
    return red, green, blue


def _one_of(rng: np.random.Generator, names: Mapping[str, Colour] | tuple[str, ...]) -> str:
    return tuple(names)[int(rng.integers(len(names)))]
