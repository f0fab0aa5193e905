"""How good the pictures of a checkpoint of cartoon faces are: tables, and bars that must be kept.

    python -m benchmarks.quality [--scenes 64] [--write docs/lab/quality.md] [--checkpoint FOLDER]

Scenes that no training saw are spoilt, sent to a real server, and compared with the drawings that
they were.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe
from benchmarks.picture_quality import (
    Mask,
    colour_distance,
    colour_name,
    edge_f_score,
    psnr_db,
    sharpness,
    ssim,
)
from examples.demo_checkpoint.person import COLOURS, EYE_COLOURS, HAIR_COLOURS, Colour, Person
from examples.demo_service import (
    CHANGE,
    CHECKPOINT,
    REDRAW,
    REPAIR,
    Redraw,
    build_demo,
    controlled,
    prompted,
    serve_demo,
    through,
)
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client.arrays import ByteArray

FIRST_SEED = 10_000
STEPS, CFGS = (1, 2, 4, 8), (1.0, 2.0, 5.0, 8.0)
SWEPT_SCENES = 16
SSIM_SHARE, ADHERENCE_SHARE = 0.8, 0.85
_HEAD = """# Quality

How good the demo checkpoint's pictures are, by
`python -m benchmarks.quality --scenes {scenes} --write docs/lab/quality.md`: scenes that no
training saw, with 3 to 8 cartoon faces each, are drawn; every head is blurred, shrunk to a third,
compressed as JPEG of quality 25 and enlarged again; a real server redraws them; the pictures are
compared with the drawings. *Repair* is what the demo does first, with each person's own prompt;
*prompts* ask for other colours of eyes, hair and hats than are there; the *ControlNet* is shown the
drawing's edges. `make test-all` keeps the bars on a few of the scenes.

{machine}.

"""


@dataclass(frozen=True)
class Face:
    """Figures of one head in a picture, against its drawing."""

    sharpness: float
    psnr_db: float
    ssim: float
    edges: float


@dataclass(frozen=True)
class Attribute:
    """Something of a person that a prompt names and whose colour can be measured."""

    name: str
    colours: Mapping[str, Colour]
    part: str
    field: str

    def applies_to(self, person: Person) -> bool:
        """Whether there is such a part to be seen."""
        return {
            "hats": bool(person.hat),
            "hair": person.hair_style not in ("bald", "spiky") and not person.hat,
        }.get(self.name, True)

    def given_to(self, person: Person, colour: str) -> Person:
        """The person with that colour instead of its own."""
        changed: dict[str, Any] = {self.field: colour}
        return replace(person, **changed)


ATTRIBUTES = (
    Attribute("eyes", EYE_COLOURS, "irises", "eyes"),
    Attribute("hair", HAIR_COLOURS, "hair", "hair"),
    Attribute("hats", COLOURS, "hat", "hat_colour"),
)


@dataclass(frozen=True)
class Bar:
    """A figure and whether it is as it must be."""

    name: str
    figure: str
    kept: bool


def faces(scene: SpoiltScene, pixels: ByteArray) -> list[Face]:
    """The figures of every head of the scene."""
    wanted = scene.drawing.pixels
    return [
        Face(
            sharpness=sharpness(pixels, wanted, masks.head),
            psnr_db=psnr_db(pixels, wanted, masks.head),
            ssim=ssim(pixels, wanted, masks.head),
            edges=edge_f_score(pixels, wanted, masks.head),
        )
        for masks in scene.drawing.masks
    ]


def most_changed_outside(scene: SpoiltScene, pixels: ByteArray, feather_px: int = 5) -> int:
    """The greatest difference, in grey levels, beyond the masks and their feather.

    Pasting blurs a mask by a Gaussian that ends at three times its radius.
    """
    reach = 3 * feather_px + 1
    outside = np.ones(pixels.shape[:2], bool)
    for seg in scene.segs:
        x1, y1, x2, y2 = seg.bbox
        outside[max(0, y1 - reach) : y2 + reach, max(0, x1 - reach) : x2 + reach] = False
    difference = np.abs(pixels.astype(int) - scene.pixels).max(axis=2)
    return int(difference[outside].max())


def measure_repair(redraw: Redraw, scenes: Sequence[SpoiltScene]) -> tuple[list[str], list[Bar]]:
    """Before and after detailing with each person's own prompt."""
    before: list[Face] = []
    after: list[Face] = []
    outside = 0
    for scene in tqdm(scenes, desc="repair"):
        pixels = redraw(scene, prompted(scene.segs, scene.prompts), REPAIR)
        before += faces(scene, scene.pixels)
        after += faces(scene, pixels)
        outside = max(outside, most_changed_outside(scene, pixels))
    lines = [f"| of {len(after)} faces | before | after | better |", "|---|---|---|---|"]
    won = {}
    for name, label in (
        ("sharpness", "sharpness (1: the drawing's)"),
        ("psnr_db", "PSNR, dB"),
        ("ssim", "SSIM"),
        ("edges", "edges, F-score"),
    ):
        old, new = (np.array([getattr(face, name) for face in each]) for each in (before, after))
        won[name] = (new.mean() > old.mean(), float((new > old).mean()))
        lines.append(f"| {label} | {old.mean():.3f} | {new.mean():.3f} | {won[name][1]:.0%} |")
    bars = [
        *(Bar(f"{name} rises", "in the mean", won[name][0]) for name in won if name != "edges"),
        Bar("SSIM rises", f"on {won['ssim'][1]:.0%} of faces", won["ssim"][1] >= SSIM_SHARE),
        Bar("outside the masks", f"at most {outside} grey levels change", outside == 0),
    ]
    return lines, bars


@dataclass(frozen=True)
class Colouring:
    """What became of a colour that a prompt named, where another was before."""

    attribute: str
    found: bool
    distance: float


def recolour(
    redraw: Redraw, scenes: Sequence[SpoiltScene], options: Mapping[str, Any], what: str
) -> list[Colouring]:
    """Redraws each scene with other colours of eyes, hair and hats in the prompts, all at once."""
    seen: list[Colouring] = []
    for number, scene in enumerate(tqdm(scenes, desc=what)):
        wanted = [
            _recoloured(figure.person, number + index)
            for index, figure in enumerate(scene.drawing.figures)
        ]
        segs = prompted(scene.segs, [person.prompt() for person in wanted])
        pixels = redraw(scene, segs, options)
        for person, masks in zip(wanted, scene.drawing.masks, strict=True):
            for attribute in (each for each in ATTRIBUTES if each.applies_to(person)):
                mask: Mask = getattr(masks, attribute.part)
                colour = getattr(person, attribute.field)
                name = colour_name(pixels, mask, attribute.colours)
                distance = colour_distance(pixels, mask, attribute.colours[colour])
                if name is not None and distance is not None:
                    seen.append(Colouring(attribute.name, name == colour, distance))
    return seen


def _recoloured(person: Person, number: int) -> Person:
    """The person with a colour of eyes, hair and hat that they do not have."""
    for attribute in ATTRIBUTES:
        others = [name for name in attribute.colours if name != getattr(person, attribute.field)]
        person = attribute.given_to(person, others[number % len(others)])
    return person


def measure_adherence(redraw: Redraw, scenes: Sequence[SpoiltScene]) -> tuple[list[str], list[Bar]]:
    """How often the colours that the prompt names are found, where others were before."""
    lines, bars = ["| prompt names | parts | found |", "|---|---|---|"], []
    seen = recolour(redraw, scenes, CHANGE, "prompts")
    for attribute in ATTRIBUTES:
        found = [each.found for each in seen if each.attribute == attribute.name]
        share = float(np.mean(found)) if found else 0.0
        lines.append(f"| colour of {attribute.name} | {len(found)} | {share:.0%} |")
        kept = share >= ADHERENCE_SHARE
        bars.append(Bar(f"colour of {attribute.name}", f"found in {share:.0%}", kept))
    return lines, bars


def measure_guidance(redraw: Redraw, scenes: Sequence[SpoiltScene]) -> tuple[list[str], list[Bar]]:
    """How near the colours come to those that the prompt names, by cfg."""
    lines = ["| cfg | found | median distance, ΔE*ab |", "|---|---|---|"]
    distances = {}
    for cfg in CFGS:
        seen = recolour(redraw, scenes, {**CHANGE, "cfg": cfg}, f"cfg {cfg:g}")
        share = float(np.mean([each.found for each in seen]))
        distances[cfg] = float(np.median([each.distance for each in seen]))
        lines.append(f"| {cfg:g} | {share:.0%} | {distances[cfg]:.1f} |")
    none, used = distances[1.0], distances[CHANGE["cfg"]]
    bar = Bar("guidance follows the prompt", f"ΔE*ab {none:.1f} → {used:.1f}", used < none)
    return lines, [bar]


def measure_control(redraw: Redraw, scenes: Sequence[SpoiltScene]) -> tuple[list[str], list[Bar]]:
    """Edges with a ControlNet that is shown the drawing's, and without."""
    lines, means = ["| | edges, F-score | SSIM |", "|---|---|---|"], []
    for label, strength in (("without", 0.0), ("with the ControlNet", 1.0)):
        measured: list[Face] = []
        for scene in tqdm(scenes, desc=label):
            options = {**REDRAW, **controlled(scene, strength)}
            pixels = redraw(scene, prompted(scene.segs, scene.prompts), options)
            measured += faces(scene, pixels)
        means.append(float(np.mean([face.edges for face in measured])))
        similar = float(np.mean([face.ssim for face in measured]))
        lines.append(f"| {label} | {means[-1]:.3f} | {similar:.3f} |")
    figure = f"F-score {means[0]:.3f} → {means[1]:.3f}"
    return lines, [Bar("the ControlNet keeps edges", figure, means[1] > means[0])]


def measure_steps(redraw: Redraw, scenes: Sequence[SpoiltScene]) -> tuple[list[str], list[Bar]]:
    """The mean figures by the number of steps, faces drawn anew after their own prompt."""
    lines = ["| steps | sharpness | PSNR, dB | SSIM | edges |", "|---|---|---|---|---|"]
    sharp = {}
    for steps in STEPS:
        measured: list[Face] = []
        for scene in tqdm(scenes, desc=f"{steps} steps"):
            options = {**REDRAW, "steps": steps}
            measured += faces(scene, redraw(scene, prompted(scene.segs, scene.prompts), options))
        columns = np.array([list(vars(face).values()) for face in measured]).mean(axis=0)
        sharp[steps] = float(columns[0])
        lines.append(f"| {steps} | " + " | ".join(f"{each:.3f}" for each in columns) + " |")
    first, last = sharp[STEPS[0]], sharp[STEPS[-1]]
    bar = Bar("more steps draw more", f"sharpness {first:.3f} → {last:.3f}", last > first)
    return lines, [bar]


def measure(redraw: Redraw, count: int) -> tuple[str, list[Bar]]:
    """All tables, as Markdown, and all bars."""
    scenes = [spoilt_scene(FIRST_SEED + number) for number in range(count)]
    few = scenes[:SWEPT_SCENES]
    tables, bars = [], []
    for title, (lines, more) in (
        (f"Repair: {count} scenes", measure_repair(redraw, scenes)),
        ("Prompts", measure_adherence(redraw, scenes)),
        ("ControlNet", measure_control(redraw, scenes)),
        ("Steps", measure_steps(redraw, few)),
        ("Guidance", measure_guidance(redraw, few)),
    ):
        tables.append("\n".join([f"## {title}", "", *lines]))
        bars += more
    verdicts = [f"| {bar.name} | {bar.figure} | {'yes' if bar.kept else 'no'} |" for bar in bars]
    head = "\n".join(["## Bars", "", "| | measured | kept |", "|---|---|---|", *verdicts])
    return "\n\n".join([head, *tables]) + "\n", bars


def main(argv: Sequence[str] | None = None) -> int:
    """Builds, serves, measures; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="FOLDER")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there too")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    build_demo(options.checkpoint)
    with serve_demo() as client:
        tables, bars = measure(through(client), options.scenes)
    text = _HEAD.format(scenes=options.scenes, machine=describe()) + tables
    sys.stdout.write(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0 if all(bar.kept for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
