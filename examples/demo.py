"""The whole service in one command: build a pipeline, serve it, repair a picture's faces.

python -m examples.demo [--output DIR]

The checkpoint is the small one in examples/demo_checkpoint, which knows cartoon faces and nothing
else. Three requests: spoilt faces repaired; the same, one of them changed by a prompt of its own;
all redrawn along the edges that a ControlNet is shown.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from examples.demo_service import (
    CHANGE,
    REDRAW,
    REPAIR,
    build_demo,
    controlled,
    prompted,
    serve_demo,
)
from examples.spoilt_scene import SpoiltScene, spoilt_scene
from segs_client import DetailResult, Segs
from segs_client.compare import compare_image

SEED = 17
CHANGED = 1
CHANGED_TO = "smiling face, pale skin, bun blue hair, green eyes, purple shirt"

log = logging.getLogger("demo")


@dataclass(frozen=True)
class Ask:
    """One of the demo's requests: the end of its files' names, what it is, SEGS and options."""

    suffix: str
    what: str
    segs: Segs
    options: Mapping[str, Any]


def asks(scene: SpoiltScene) -> tuple[Ask, ...]:
    """What the demo asks for."""
    own = prompted(scene.segs, scene.prompts)
    items = list(own.items)
    items[CHANGED] = replace(
        own[CHANGED],
        options={
            "prompt": CHANGED_TO,
            **{name: CHANGE[name] for name in ("steps", "cfg", "denoise")},
        },
    )
    one_changed = replace(own, items=tuple(items))
    return (
        Ask("", f"{len(own)} spoilt faces repaired, each with its own prompt", own, REPAIR),
        Ask("_changed", f'face {CHANGED} as "{CHANGED_TO}"', one_changed, REPAIR),
        Ask(
            "_controlled",
            "all faces redrawn, along the edges of the drawing",
            own,
            {**REDRAW, **controlled(scene)},
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Writes input.png, and for each request output, compare (PNG) and report (JSON)."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=Path("out/demo"), metavar="DIR")
    folder: Path = parser.parse_args(argv).output
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    folder.mkdir(parents=True, exist_ok=True)

    log.info("1. building the pipeline from the checkpoint of cartoon faces (once)")
    build_demo()
    scene = spoilt_scene(SEED)
    picture = Image.fromarray(scene.pixels)
    picture.save(folder / "input.png")

    log.info("2. starting the real tritonserver on this machine's CPU")
    with serve_demo() as client:
        log.info("3. asking for three pictures over gRPC at %s", client.urls[0])
        for ask in asks(scene):
            log.info("   %s", ask.what)
            with _clock("   waiting"):
                result = client.detail(picture, ask.segs, **ask.options)
            _write(result, picture, ask.suffix, folder)
        log.info("4. stopping the server")
    log.info("input, output*, compare*.png and report*.json are in %s", folder)
    return 0


def _write(result: DetailResult, picture: Image.Image, suffix: str, folder: Path) -> None:
    assert result.image is not None
    result.image.save(folder / f"output{suffix}.png")
    sheet = compare_image(picture, result.image, result.segs)
    sheet.save(folder / f"compare{suffix}.png")
    report = result.report.model_dump_json(indent=2)
    (folder / f"report{suffix}.json").write_text(report + "\n")
    for seg in result.report.segs:
        height, width = seg.sampled_size or (0, 0)
        log.info(
            "   SEG %d %s: %s, sampled at %d×%d in %d steps",
            seg.index, seg.label, seg.status, width, height, seg.steps_run,
        )  # fmt: skip


@contextmanager
def _clock(what: str) -> Iterator[None]:
    """Shows on a terminal how long something has taken so far."""
    done = threading.Event()

    def tick() -> None:
        start_s = time.monotonic()
        while not done.wait(0.2):
            sys.stderr.write(f"\r{what} … {time.monotonic() - start_s:.1f} s")
            sys.stderr.flush()
        sys.stderr.write("\r\033[K")

    if not sys.stderr.isatty():
        yield
        return
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
