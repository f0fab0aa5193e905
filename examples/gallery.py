"""A page of what the options do: one picture per setting, each made by a request to a real server.

    python -m examples.gallery [--output out/gallery] [--checkpoint FOLDER]

The page works without a network; beside each picture lies the request's JSON.
"""

from __future__ import annotations

import argparse
import html
import itertools
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image
from tqdm import tqdm

from examples.demo_service import (
    CHECKPOINT,
    FROM_NOTHING,
    INPAINT,
    PIPELINE,
    REDRAW,
    REPAIR,
    Redraw,
    build_demo,
    build_inpaint,
    controlled,
    prompted,
    serve_demo,
    through,
)
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client.messages import build as build_request

SEED = 22
SIZE = (640, 448)


@dataclass(frozen=True)
class Group:
    """Settings that are shown beside each other: label → options in place of the base's."""

    name: str
    about: str
    base: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]


def groups(scene: SpoiltScene) -> tuple[Group, ...]:
    """All that the page shows of a scene."""

    def one(option: str, values: Sequence[Any]) -> dict[str, Mapping[str, Any]]:
        return {f"{option} {value}": {option: value} for value in values}

    samplers = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc")
    by_steps = {
        f"{sampler}, {steps} steps": {"sampler_name": sampler, "steps": steps}
        for sampler, steps in itertools.product(samplers, (3, 6, 12))
    }
    strengths = {f"strength {each}": controlled(scene, each) for each in (0.0, 0.5, 1.0)}
    feathers = {f"feather {px} px": {"paste": {"feather": px}} for px in (0, 5, 20)}
    return (
        Group(
            "Denoise",
            "How much of what was there is redrawn: little repairs, much follows the prompt.",
            {**REPAIR, "steps": 12},
            one("denoise", (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)),
        ),
        Group(
            "Samplers and steps",
            "The same noise, other ways to take it away, at denoise 0.75.",
            REDRAW,
            by_steps,
        ),
        Group(
            "Guide size",
            "The size that faces are enlarged to before they are redrawn; larger ones stay.",
            REPAIR,
            {**one("guide_size", (64, 96, 128)), "crop guided": {"guide_size_for": False}},
        ),
        Group("Feather", "How softly the redrawn face is pasted.", REDRAW, feathers),
        Group(
            "Guidance",
            "How closely the prompt is followed, at denoise 0.75.",
            REDRAW,
            one("cfg", (1.0, 2.0, 4.0, 8.0)),
        ),
        Group(
            "ControlNet", "Edges that the new face is to have, at denoise 0.75.", REDRAW, strengths
        ),
        Group(
            "Inpainting",
            "Faces drawn from nothing but their prompts: by a network that is shown what lies "
            "around the mask, and by one that is not.",
            FROM_NOTHING,
            {"without": {}, "with the inpainting network": INPAINT},
        ),
        Group("Seeds", "Other noise, at denoise 0.75.", REDRAW, one("seed", (1, 2, 3, 4))),
    )


def make_gallery(redraw: Redraw, folder: Path) -> Path:
    """Asks for every picture and writes the page.

    Args:
        redraw: asks the server.
        folder: is emptied, and gets index.html, before.png, and a PNG and a JSON per setting.

    Returns:
        The page's path.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scene = spoilt_scene(SEED, *SIZE)
    segs = prompted(scene.segs, scene.prompts)
    Image.fromarray(scene.pixels).save(folder / "before.png")
    shown = groups(scene)
    bar = tqdm(total=sum(len(group.settings) for group in shown), desc="gallery")
    sections = []
    for group in shown:
        cards = []
        for label, settings in group.settings.items():
            options = {**group.base, **settings}
            name = _file_name(group.name, label)
            Image.fromarray(redraw(scene, segs, options)).save(folder / f"{name}.png")
            request = build_request(scene.pixels, segs, **{"pipeline": PIPELINE, **options}).request
            text = request.model_dump_json(indent=2, exclude_defaults=True)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            cards.append(_card(label, name))
            bar.update()
        sections.append(_section(group, cards))
    page = Template((Path(__file__).parent / "gallery.html").read_text(encoding="utf-8"))
    index = folder / "index.html"
    text = page.substitute(
        title="SEGS Detailer: what the options do",
        introduction="Drag across a picture: the spoilt scene on the left, the detailed one on the "
        "right. Each was made by the request beside it.",
        groups="\n".join(sections),
    )
    index.write_text(text, encoding="utf-8")
    return index


def _section(group: Group, cards: Sequence[str]) -> str:
    return (
        f"<h2>{html.escape(group.name)}</h2>\n<p>{html.escape(group.about)}</p>\n"
        f'<div class="grid">\n{"".join(cards)}</div>'
    )


def _card(label: str, name: str) -> str:
    said = html.escape(label, quote=True)
    return (
        '<figure>\n<div class="pair">'
        f'<img src="before.png" alt="before"><img class="after" src="{name}.png" alt="{said}">'
        f'<input type="range" value="50" aria-label="before and after: {said}"></div>\n'
        f'<figcaption>{said} <a href="{name}.json">request</a></figcaption>\n</figure>\n'
    )


def _file_name(group: str, label: str) -> str:
    return "".join(_letters(f"{group} {label}"))


def _letters(text: str) -> Iterator[str]:
    for letter in text.lower():
        yield letter if letter.isalnum() or letter == "." else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Builds, serves, asks; writes the page's path."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.gallery", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, metavar="FOLDER")
    parser.add_argument(
        "--output", type=Path, default=Path("out/gallery"), metavar="DIR", help="is emptied first"
    )
    options = parser.parse_args(argv)
    output: Path = options.output
    if output.exists() and not output.is_dir():
        parser.error(f"{output} is no folder")
    if output.exists() and any(output.iterdir()) and not (output / "index.html").exists():
        parser.error(f"{output} is not empty and holds no gallery; it would be emptied")
    logging.basicConfig(level=logging.WARNING)
    build_demo(options.checkpoint)
    build_inpaint(options.checkpoint)
    with serve_demo() as client:
        sys.stdout.write(f"{make_gallery(through(client), options.output)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
