"""How good the pictures of a checkpoint of cartoon faces are: tables, and bars that must be kept.

    python -m benchmarks.quality --checkpoint FOLDER [--scenes 64] [--write docs/quality.md]

FOLDER is what ``python -m examples.demo_checkpoint export`` writes. Scenes that no training saw
are spoilt, sent to a real server, and compared with the drawings that they were.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.machine import describe
from benchmarks.picture_quality import (
    Mask,
    Pixels,
    colour_name,
    edge_f_score,
    psnr_db,
    sharpness,
    ssim,
)
from build_engines import build
from examples.demo_checkpoint.export import CONTROLNET
from examples.demo_checkpoint.person import COLOURS, EYE_COLOURS, HAIR_COLOURS, Colour, Person
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client import Client, Segs
from serving.server import EmbeddedServer

PROJECT = Path(__file__).resolve().parent.parent
REPOSITORY = PROJECT / "build" / "quality"
PIPELINE = "demo"
FIRST_SEED = 10_000
REPAIR: Mapping[str, Any] = {
    "guide_size": 96,
    "max_size": 192,
    "steps": 12,
    "cfg": 3.0,
    "denoise": 0.45,
    "sampler_name": "dpmpp_2m",
    "scheduler": "karras",
    "seed": 7,
}
CHANGE: Mapping[str, Any] = {**REPAIR, "cfg": 5.0, "denoise": 0.85}
"""For prompts that ask for something else than is there."""
STEPS, CFGS = (2, 4, 8, 16), (1.0, 2.0, 4.0, 8.0)
SWEPT_SCENES = 16
SSIM_SHARE, ADHERENCE_SHARE = 0.8, 0.85

Redraw = Callable[[SpoiltScene, Segs, Mapping[str, Any]], Pixels]
"""Of a scene with these SEGS and options, the picture that comes back."""


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


def faces(scene: SpoiltScene, pixels: Pixels) -> list[Face]:
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


def prompted(segs: Segs, prompts: Sequence[str]) -> Segs:
    """The SEGS, each with its own prompt."""
    items = zip(segs, prompts, strict=True)
    return replace(
        segs, items=tuple(replace(seg, options={"prompt": prompt}) for seg, prompt in items)
    )


def most_changed_outside(scene: SpoiltScene, pixels: Pixels, feather_px: int = 5) -> int:
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


def measure_adherence(
    redraw: Redraw, scenes: Sequence[SpoiltScene], options: Mapping[str, Any] = CHANGE
) -> tuple[list[str], list[Bar]]:
    """How often the colour that the prompt names is found, where another was before."""
    lines, bars = ["| prompt names | faces | found |", "|---|---|---|"], []
    for attribute in ATTRIBUTES:
        found: list[bool] = []
        for number, scene in enumerate(tqdm(scenes, desc=attribute.name)):
            people = [figure.person for figure in scene.drawing.figures]
            wanted = [
                _another(attribute, person, number + index) for index, person in enumerate(people)
            ]
            prompts = [
                attribute.given_to(person, colour).prompt()
                for person, colour in zip(people, wanted, strict=True)
            ]
            pixels = redraw(scene, prompted(scene.segs, prompts), options)
            for person, colour, masks in zip(people, wanted, scene.drawing.masks, strict=True):
                mask: Mask = getattr(masks, attribute.part)
                seen = colour_name(pixels, mask, attribute.colours)
                if attribute.applies_to(person) and seen is not None:
                    found.append(seen == colour)
        share = float(np.mean(found)) if found else 0.0
        lines.append(f"| {attribute.name} | {len(found)} | {share:.0%} |")
        kept = share >= ADHERENCE_SHARE
        bars.append(Bar(f"colour of {attribute.name}", f"found in {share:.0%}", kept))
    return lines, bars


def _another(attribute: Attribute, person: Person, number: int) -> str:
    """A colour that the person's part does not have."""
    others = [name for name in attribute.colours if name != getattr(person, attribute.field)]
    return others[number % len(others)]


def measure_control(redraw: Redraw, scenes: Sequence[SpoiltScene]) -> tuple[list[str], list[Bar]]:
    """Edges with a ControlNet that is shown the drawing's, and without."""
    lines, means = ["| | edges, F-score | SSIM |", "|---|---|---|"], []
    for label, strength in (("without", 0.0), ("with the ControlNet", 1.0)):
        measured: list[Face] = []
        for scene in tqdm(scenes, desc=label):
            control: dict[str, Any] = {
                "name": CONTROLNET,
                "image": Image.fromarray(scene.drawing.pixels),
                "preprocessor": "canny",
                "strength": strength,
            }
            options = {**CHANGE, **({"controlnets": [control]} if strength else {})}
            pixels = redraw(scene, prompted(scene.segs, scene.prompts), options)
            measured += faces(scene, pixels)
        means.append(float(np.mean([face.edges for face in measured])))
        similar = float(np.mean([face.ssim for face in measured]))
        lines.append(f"| {label} | {means[-1]:.3f} | {similar:.3f} |")
    figure = f"F-score {means[0]:.3f} → {means[1]:.3f}"
    return lines, [Bar("the ControlNet keeps edges", figure, means[1] > means[0])]


def measure_sweep(
    redraw: Redraw, scenes: Sequence[SpoiltScene], option: str, values: Sequence[float]
) -> tuple[list[str], dict[float, Face]]:
    """The repair's mean figures by the value of one option."""
    lines = [f"| {option} | sharpness | PSNR, dB | SSIM | edges |", "|---|---|---|---|---|"]
    means = {}
    for value in values:
        measured: list[Face] = []
        for scene in tqdm(scenes, desc=f"{option} {value}"):
            options = {**REPAIR, option: value}
            measured += faces(scene, redraw(scene, prompted(scene.segs, scene.prompts), options))
        columns = np.array([list(vars(face).values()) for face in measured]).mean(axis=0)
        means[value] = Face(*map(float, columns))
        lines.append(f"| {value:g} | " + " | ".join(f"{each:.3f}" for each in columns) + " |")
    return lines, means


def measure(redraw: Redraw, count: int) -> tuple[str, list[Bar]]:
    """All tables, as Markdown, and all bars."""
    scenes = [spoilt_scene(FIRST_SEED + number) for number in range(count)]
    few = scenes[:SWEPT_SCENES]
    repair, bars = measure_repair(redraw, scenes)
    adherence, more = measure_adherence(redraw, scenes)
    control, last = measure_control(redraw, scenes)
    steps, by_steps = measure_sweep(redraw, few, "steps", STEPS)
    cfgs, _ = measure_sweep(redraw, few, "cfg", CFGS)
    rising = Bar(
        "more steps repair better",
        f"SSIM {by_steps[STEPS[0]].ssim:.3f} → {by_steps[STEPS[-1]].ssim:.3f}",
        by_steps[STEPS[-1]].ssim > by_steps[STEPS[0]].ssim,
    )
    bars = [*bars, *more, *last, rising]
    verdicts = [f"| {bar.name} | {bar.figure} | {'yes' if bar.kept else 'no'} |" for bar in bars]
    parts = [
        ["## Bars", "", "| | measured | kept |", "|---|---|---|", *verdicts],
        [f"## Repair: {count} scenes", "", *repair],
        ["## Prompts", "", *adherence],
        ["## ControlNet", "", *control],
        ["## Steps", "", *steps],
        ["## Guidance", "", *cfgs],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n", bars


def through(client: Client) -> Redraw:
    """Redraws by requests to a server."""

    def redraw(scene: SpoiltScene, segs: Segs, options: Mapping[str, Any]) -> Pixels:
        result = client.detail(scene.pixels, segs, **options)
        assert result.image is not None
        return np.asarray(result.image)

    return redraw


def main(argv: Sequence[str] | None = None) -> int:
    """Builds, serves, measures; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables there too")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    controlnets = {CONTROLNET: options.checkpoint / CONTROLNET}
    build(options.checkpoint, PIPELINE, REPOSITORY, controlnets=controlnets)
    with (
        EmbeddedServer([REPOSITORY]) as server,
        Client(server.grpc_url, pipeline=PIPELINE) as client,
    ):
        tables, bars = measure(through(client), options.scenes)
    text = f"# Quality\n\n{describe()}\n\n{tables}"
    sys.stdout.write(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0 if all(bar.kept for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
