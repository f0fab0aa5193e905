"""What throughput mode does to shapes, cost and picture, against the exact mode.

    python -m benchmarks.shapes

First 500 boxes on pictures of common sizes, as prepare plans them: how many latent shapes are
left, and what the grown crops cost. Then pictures, redrawn in this process by the tiny pipeline:
calls of the UNet, and differences in grey levels under the masks and around them. Prints two
Markdown tables.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from build_engines import build as build_pipeline
from examples import scene
from pipelines import PipelineDescriptor, load_all
from preprocessing.prepare import RequestTensors, prepare
from request_plan.plan import PlannedSeg
from runners.in_process import LocalDetailer
from sampling.vae import cut
from segs_client import Segs, tools
from segs_client.arrays import ByteArray, resize_lanczos
from segs_client.boxes import Box, Size, area, window
from segs_client.contract import SegReport
from segs_client.messages import BuiltRequest, build

PROJECT = Path(__file__).resolve().parent.parent
PIPELINE = "tiny"
MODES = ("exact", "throughput")

BOXES = 500
PICTURE_SIZES: tuple[Size, ...] = (
    (1024, 1024), (1216, 832), (832, 1216), (1536, 1024), (1024, 1536), (2048, 1365), (2048, 2048)
)  # fmt: skip
SHARED_WITH = 8
AT_WORK = 16
DRAWS = 300

STEPS = 4
FEATHER_PX = 5
COMMON: Mapping[str, Any] = {
    "prompt": "a face",
    "guide_size": 192,
    "max_size": 320,
    "steps": STEPS,
    "paste": {"feather": FEATHER_PX},
    "output": {"image": "raw"},
}


@dataclass(frozen=True)
class Setting:
    """One pair of rows of the first table."""

    name: str
    options: Mapping[str, Any]


SETTINGS = (
    Setting("defaults", {}),
    Setting("crop_factor 2, max_size 1024", {"crop_factor": 2.0, "max_size": 1024}),
    Setting("crop_factor 1.5, guide_size 384", {"crop_factor": 1.5, "guide_size": 384}),
)


@dataclass(frozen=True)
class Case:
    """One row of the second table."""

    name: str
    segs: Segs
    options: Mapping[str, Any] = field(default_factory=dict)


def crowds(count: int = BOXES, seed: int = 0) -> dict[Size, list[Box]]:
    """Boxes of faces (3 of 5) and hands, by the (height, width) of their picture.

    Sizes and aspect ratios are log-normal: a face is 110 px across in the median and 1.3 times as
    high, a hand 75 px and as high as it is wide, with wider spread.
    """
    random = np.random.default_rng(seed)
    found: dict[Size, list[Box]] = {size: [] for size in PICTURE_SIZES}
    for _ in range(count):
        size = PICTURE_SIZES[random.integers(len(PICTURE_SIZES))]
        median_px, aspect, spread = (110, 1.3, 0.12) if random.random() < 0.6 else (75, 1.0, 0.3)
        across = math.exp(random.normal(math.log(median_px), 0.55))
        ratio = math.exp(random.normal(math.log(aspect), spread))
        sides = across * math.sqrt(ratio), across / math.sqrt(ratio)
        height, width = (
            int(np.clip(side, 24, 0.8 * most)) for side, most in zip(sides, size, strict=True)
        )
        top, left = int(random.integers(size[0] - height)), int(random.integers(size[1] - width))
        found[size].append((left, top, left + width, top + height))
    return found


def planned(
    descriptor: PipelineDescriptor, boxes: Mapping[Size, Sequence[Box]], options: Mapping[str, Any]
) -> list[PlannedSeg]:
    """Every box as prepare plans it."""
    found: list[PlannedSeg] = []
    for size, own in boxes.items():
        built = build(np.zeros((*size, 3), np.uint8), own, pipeline=descriptor.name, **options)
        done = prepare(_inputs(built), pipelines={descriptor.name: descriptor})
        found += done.plan.segs
    return found


def shapes_table(descriptor: PipelineDescriptor) -> str:
    """The first table."""
    boxes = crowds()
    lines = [
        f"| setting | shapes | latent shapes | SEGs with ≥ {SHARED_WITH} others of their shape "
        f"| SEGs a shape, of {AT_WORK} at work | sampled pixels: mean, most, all "
        "| crop region's area: mean, most |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting in SETTINGS:
        plans = {
            mode: planned(descriptor, boxes, {**setting.options, "shapes": mode}) for mode in MODES
        }
        before = plans["exact"]
        for mode, after in plans.items():
            lines.append(f"| {setting.name} | {mode} | {_shared(after)} | {_cost(before, after)} |")
    return "\n".join(lines)


def _shared(segs: Sequence[PlannedSeg]) -> str:
    shapes = [(height // 8, width // 8) for height, width in map(_size, segs)]
    counts = Counter(shapes)
    shared = sum(count for count in counts.values() if count > SHARED_WITH)
    random = np.random.default_rng(0)
    a_shape = statistics.mean(
        AT_WORK / len({shapes[index] for index in random.choice(len(shapes), AT_WORK, False)})
        for _ in range(DRAWS)
    )
    return f"{len(counts)} | {shared / len(shapes):.0%} | {a_shape:.1f}"


def _cost(before: Sequence[PlannedSeg], after: Sequence[PlannedSeg]) -> str:
    pixels = [[math.prod(_size(seg)) for seg in segs] for segs in (before, after)]
    areas = [[area(seg.crop_region) for seg in segs] for segs in (before, after)]
    sampled, region = (
        [new / old for old, new in zip(*pair, strict=True)] for pair in (pixels, areas)
    )
    in_all = sum(pixels[1]) / sum(pixels[0])
    return (
        f"× {statistics.mean(sampled):.2f}, {max(sampled):.2f}, {in_all:.2f} "
        f"| × {statistics.mean(region):.2f}, {max(region):.2f}"
    )


def _size(seg: PlannedSeg) -> Size:
    if seg.crop is None:
        raise ValueError(f"{seg.bbox} was skipped: {seg.skip}")
    return seg.crop.height, seg.crop.width


def cases() -> list[Case]:
    """Four faces under their masks, and eight boxes of different forms."""
    masks = scene.draw()[1]
    faces = Segs.from_masks(masks, crop_factor=2.0)
    size = masks[0].shape[0], masks[0].shape[1]
    sides = ((30, 40), (34, 40), (38, 40), (40, 33), (44, 60), (52, 64), (70, 56), (64, 90))
    boxes = []
    for index, (width, height) in enumerate(sides):
        left, top = 20 + 124 * (index % 4), 30 + 150 * (index // 4)
        boxes.append((left, top, left + width, top + height))
    mixed, tight = (Segs.from_boxes(boxes, size, crop_factor=factor) for factor in (2.0, 1.0))
    return [
        Case("4 faces, masks", faces),
        Case("8 boxes", mixed),
        Case("8 boxes, denoise 0.2", mixed, {"denoise": 0.2}),
        Case("8 boxes, noise_mask off", mixed, {"noise_mask": False}),
        Case("8 boxes, crop_factor 1", tight),
    ]


@dataclass(frozen=True)
class Redrawn:
    """A picture ``[H, W, 3]``, what became of its SEGS, and the calls of the UNet for it."""

    pixels: ByteArray
    segs: tuple[SegReport, ...]
    unet_calls: int


@dataclass(frozen=True)
class Compared:
    """One case in both modes, and in the exact mode with another seed."""

    case: Case
    original: ByteArray
    exact: Redrawn
    throughput: Redrawn
    reseeded: Redrawn

    @property
    def untouched(self) -> NDArray[np.bool_]:
        """Where neither a mask nor its feather reaches ``[H, W]``."""
        reached = tools.dilated(self.case.segs, FEATHER_PX, element="square")
        return np.equal(tools.combined_mask(reached), 0)

    @property
    def differing_outside(self) -> int:
        """Pixels there that are not alike in all pictures."""
        pictures = self.original, self.exact.pixels, self.throughput.pixels
        unlike = np.ptp(np.stack(pictures), axis=0).any(axis=2)
        return int((unlike & self.untouched).sum())


def compare(local: LocalDetailer, case: Case) -> Compared:
    """Redraws a case's SEGS three times."""
    picture = np.asarray(scene.draw()[0])

    def redrawn(**options: Any) -> Redrawn:
        options = {**COMMON, **case.options, **options}
        local.networks.calls.clear()
        done = local.detail(_inputs(build(picture, case.segs, pipeline=PIPELINE, **options)))
        calls = sum(call.network.endswith("_unet") for call in local.networks.calls)
        return Redrawn(done.image.reshape(picture.shape), done.report.segs, calls)

    exact, throughput = redrawn(), redrawn(shapes="throughput")
    return Compared(case, picture, exact, throughput, reseeded=redrawn(seed=1))


def pictures_table(rows: Sequence[Compared]) -> str:
    """The second table."""
    lines = [
        "| case | UNet calls | SEGs a call | exact to throughput: mean, most "
        "| exact to another seed: mean, most | exact to original: mean, most "
        "| resized alone, to original: mean, exact → throughput | pixels that differ outside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        inside = tools.combined_mask(row.case.segs) > 0.5
        calls = [one.unet_calls for one in (row.exact, row.throughput)]
        a_call = " → ".join(f"{len(row.case.segs) * STEPS / count:.1f}" for count in calls)
        others = " | ".join(
            "{:.1f}, {}".format(*_difference(row.exact.pixels, other, inside))
            for other in (row.throughput.pixels, row.reseeded.pixels, row.original)
        )
        resized = " → ".join(
            f"{_difference(_resized(row.original, one.segs), row.original, inside)[0]:.2f}"
            for one in (row.exact, row.throughput)
        )
        lines.append(
            f"| {row.case.name} | {calls[0]} → {calls[1]} | {a_call} | {others} | {resized} "
            f"| {row.differing_outside} of {int(row.untouched.sum())} |"
        )
    return "\n".join(lines)


def _resized(picture: ByteArray, segs: Sequence[SegReport]) -> ByteArray:
    """The picture with every box as its crop is after the way to its sampled size and back."""
    out = picture.copy()
    for seg in segs:
        if seg.sampled_size is not None:
            region = window(seg.crop_region)
            crop = cut(resize_lanczos(picture[region], *seg.sampled_size))
            back = picture.copy()
            back[region] = resize_lanczos(crop, *picture[region].shape[:2])
            out[window(seg.bbox)] = back[window(seg.bbox)]
    return out


def _difference(one: ByteArray, other: ByteArray, where: NDArray[np.bool_]) -> tuple[float, int]:
    """Mean and greatest difference in grey levels."""
    apart = np.abs(one.astype(int) - other)[where]
    return float(apart.mean()), int(apart.max())


def _inputs(built: BuiltRequest) -> RequestTensors:
    return RequestTensors(
        built.request.model_dump_json().encode(),
        built.image,
        built.masks,
        built.seg_images,
        built.control_images,
    )


def main() -> int:
    """Prints both tables; returns 1 if a pixel outside the masks and their feather differs."""
    repository = PROJECT / "build" / "benchmarks"
    build_pipeline(PROJECT / "tests" / "data" / "checkpoints" / "sd15", PIPELINE, repository)
    descriptor, _ = load_all([repository])[PIPELINE]
    sys.stdout.write(f"{describe()}\n\n{shapes_table(descriptor)}\n\n")
    local = LocalDetailer([repository])
    rows = [compare(local, case) for case in cases()]
    sys.stdout.write(f"{pictures_table(rows)}\n")
    return 1 if any(row.differing_outside for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
