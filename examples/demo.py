"""The whole service in one command: build a pipeline, serve it, detail a picture's segments.

python -m examples.demo [--output DIR]
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from build_engines import build
from examples import scene
from segs_client import Client, Segs
from segs_client.compare import compare_image
from serving.server import EmbeddedServer

PROJECT = Path(__file__).resolve().parent.parent
CHECKPOINT = PROJECT / "tests" / "data" / "checkpoints" / "sd15"
PIPELINE = "demo"
REPOSITORY = PROJECT / "build" / "demo"
OPTIONS: dict[str, Any] = {
    "prompt": "a (smiling:1.2) face, detailed skin",
    "negative": "blurry, low quality",
    "guide_size": 160,
    "max_size": 256,
    "steps": 12,
    "cfg": 5.0,
    "denoise": 0.4,
    "sampler_name": "dpmpp_2m",
    "scheduler": "karras",
    "seed": 7,
}

log = logging.getLogger("demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Writes input.png, output.png, compare.png and report.json."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--output", type=Path, default=Path("out/demo"), metavar="DIR")
    folder: Path = parser.parse_args(argv).output
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    log.info("1. building the pipeline %r from the tiny checkpoint (once)", PIPELINE)
    build(CHECKPOINT, PIPELINE, REPOSITORY)

    picture, masks = scene.draw()
    segs = Segs.from_masks(masks, crop_factor=1.6, labels=["face"] * len(masks))
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / "input.png")

    log.info("2. starting the real tritonserver on this machine's CPU")
    with EmbeddedServer([REPOSITORY]) as server:
        log.info("3. submitting %d segments over gRPC to %s", len(segs), server.grpc_url)
        with Client(server.grpc_url, pipeline=PIPELINE) as client, _clock("   waiting"):
            result = client.detail(picture, segs, **OPTIONS)
        log.info("4. stopping the server")

    assert result.image is not None
    result.image.save(folder / "output.png")
    compare_image(picture, result.image, result.segs).save(folder / "compare.png")
    (folder / "report.json").write_text(result.report.model_dump_json(indent=2) + "\n")
    for seg in result.report.segs:
        height, width = seg.sampled_size or (0, 0)
        log.info(
            "   SEG %d %s: %s, sampled at %d×%d in %d steps",
            seg.index, seg.label, seg.status, width, height, seg.steps_run,
        )  # fmt: skip
    log.info("input.png, output.png, compare.png and report.json are in %s", folder)
    log.info(
        "The checkpoint's weights are random: the redrawn faces are noise by design. What the "
        "demo shows is the service; for pictures, build a trained checkpoint."
    )
    return 0


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
