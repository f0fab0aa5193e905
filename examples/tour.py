"""A tour of the client in ten steps: python -m examples.tour URL --pipeline NAME [--output DIR]

The server is one that runs, such as that of ``make serve``; any pipeline of a Stable Diffusion
1.x checkpoint will do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client import Client, DetailResult, InvalidRequest, Segs, compare_image, paste, tools
from segs_client.boxes import Boxes

SEED = 3


@dataclass
class Tour:
    """What the steps hand on to each other."""

    client: Client
    folder: Path
    scene: SpoiltScene
    picture: Image.Image
    segs: Segs
    result: DetailResult | None = None

    @property
    def last(self) -> DetailResult:
        """The last step's answer."""
        assert self.result is not None, "a step before this one has to ask the server"
        return self.result

    def detail(self, segs: Segs | Boxes, **options: Any) -> DetailResult:
        """Asks the server, with settings that are quick and suit small faces."""
        quick: dict[str, Any] = {
            "guide_size": 96,
            "max_size": 192,
            "steps": 6,
            "cfg": 4.0,
            "denoise": 0.45,
        }
        self.result = self.client.detail(self.picture, segs, **{**quick, **options})
        return self.result


def wait_for_the_server(tour: Tour) -> str:
    """Waits until the server takes requests."""
    tour.client.wait_ready(timeout_s=60)
    return f"{', '.join(tour.client.urls)} is ready"


def detail_boxes(tour: Tour) -> str:
    """Redraws what lies in boxes: a detector's results, say."""
    boxes = [seg.bbox for seg in tour.segs]
    tour.detail(boxes, prompt="smiling face", seed=1)
    return f"{len(tour.last.report.segs)} boxes redrawn"


def detail_masks(tour: Tour) -> str:
    """Redraws SEGS: boxes with masks, so that only the faces change."""
    tour.detail(tour.segs, prompt="smiling face", seed=1)
    assert tour.last.image is not None
    tour.last.image.save(tour.folder / "detailed.png")
    return "detailed.png"


def read_the_report(tour: Tour) -> str:
    """What became of each SEG: its status, the size at which it was sampled, the seed, the time."""
    seg = tour.last.report.segs[0]
    return f"SEG 0: {seg.status} at {seg.sampled_size}, seed {seg.seed}, {seg.sample_s:.2f} s"


def look_at_both(tour: Tour) -> str:
    """Before and after side by side, the SEGS outlined."""
    assert tour.last.image is not None
    sheet = compare_image(tour.picture, tour.last.image, tour.last.segs)
    sheet.save(tour.folder / "compare.png")
    return "compare.png"


def choose(tour: Tour) -> str:
    """Filters and orders SEGS: the two largest, from left to right."""
    largest = tools.ordered(tour.segs, "area", descending=True, count=2)
    tour.segs = tools.ordered(largest, "x1")
    return f"{len(tour.segs)} SEGS kept"


def give_each_its_prompt(tour: Tour) -> str:
    """Options of one SEG's own: here a prompt each."""
    prompts: tuple[dict[str, Any], ...] = (
        {"prompt": "green eyes"},
        {"prompt": "red hat", "denoise": 0.8},
    )
    segs = (replace(seg, options=own) for seg, own in zip(tour.segs, prompts, strict=True))
    tour.detail(replace(tour.segs, items=tuple(segs)), prompt="smiling face", seed=2)
    return "; ".join(seg.prompt or "" for seg in tour.last.report.segs)


def keep_the_crops(tour: Tour) -> str:
    """The redrawn crops come back as SEGS, to be pasted at will: half through, softly."""
    tour.detail(tour.segs, prompt="smiling face", seed=3, output={"seg_images": "png"})
    pasted = paste(tour.picture, tour.last.segs, alpha=128, feather=10)
    pasted.save(tour.folder / "half.png")
    return "half.png"


def save_the_segs(tour: Tour) -> str:
    """SEGS in a file, crops and all."""
    path = tour.folder / "segs.npz"
    tools.save(tour.last.segs, path)
    return f"{path.name} holds {len(tools.load(path))} SEGS"


def see_a_refusal(tour: Tour) -> str:
    """A request that breaks the contract is refused with the field, its value, what is allowed."""
    try:
        tour.detail(tour.segs, sampler_name="eulr")
    except InvalidRequest as error:
        return f"refused: {error}"
    raise AssertionError("the server took a sampler that does not exist")


STEPS: tuple[Callable[[Tour], str], ...] = (
    wait_for_the_server,
    detail_boxes,
    detail_masks,
    read_the_report,
    look_at_both,
    choose,
    give_each_its_prompt,
    keep_the_crops,
    save_the_segs,
    see_a_refusal,
)


def walk(url: str, pipeline: str, folder: Path) -> list[str]:
    """Takes all steps; returns what each has to say.

    Raises:
        SegsError: the server is not reachable or failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = spoilt_scene(SEED)
    with Client(url, pipeline=pipeline) as client:
        tour = Tour(client, folder, scene, Image.fromarray(scene.pixels), scene.segs)
        tour.picture.save(folder / "picture.png")
        return [step(tour) for step in STEPS]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.tour", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("url", help="host and port of the server's gRPC")
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--output", type=Path, default=Path("out/tour"), metavar="DIR")
    options = parser.parse_args(argv)
    said = walk(options.url, options.pipeline, options.output)
    for number, (step, text) in enumerate(zip(STEPS, said, strict=True), start=1):
        what = (step.__doc__ or "").strip()
        sys.stdout.write(f"{number:2}. {what}\n    → {text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
