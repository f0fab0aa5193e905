"""SEGS whose boxes have fractions, against a case of the reference.

The case is of DetailerForEach: it runs SEG by SEG, each cut from the picture as pasted so far and
with a seed of its own. So the second SEG is given its crop here, cut from the pasted first one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from segs_client import Seg, Segs
from segs_client.arrays import from_bytes
from segs_client.boxes import window
from segs_client.pasting import paste_crop
from segs_client.pictures import read_pixels
from tests.conftest import DATA
from tests.golden.cases import Case
from tests.golden.runners import EngineRunner
from tests.golden.verdict import judge

FOLDER = DATA / "golden_detail"
OPTIONS = (
    "guide_size", "guide_size_for", "max_size", "steps", "cfg", "sampler_name", "scheduler",
    "denoise", "noise_mask", "force_inpaint", "noise_mask_feather",
)  # fmt: skip


def test_boxes_with_fractions_are_sampled_as_in_the_reference(repository: Path) -> None:
    with np.load(FOLDER / "fe-float_box.npz") as data:
        arrays = {name: data[name] for name in data.files}
    meta = json.loads(arrays["meta"].tobytes())
    picture = from_bytes(read_pixels(FOLDER / meta["image"]))
    items = []
    for index, (seg, call) in enumerate(zip(meta["segs"], meta["calls"], strict=True)):
        mask, region = arrays[f"mask_{index}"], tuple(seg["crop_region"])
        own = picture[window(region)].copy() if index else None
        seed = {"seed": call["seed"] - 1}  # the first pass runs with seed + 1
        items.append(Seg(mask, call["bbox"], region, image=own, options=seed))
        paste_crop(picture, from_bytes(arrays[f"out_{index}"]), mask, region, feather=5, alpha=255)
    case = Case(
        name="fe-float_box",
        checkpoint=meta["checkpoint"],
        refiner=None,
        image=FOLDER / meta["image"],
        segs=Segs(meta["segs_size"], tuple(items)),
        options={
            **{name: meta["params"][name] for name in OPTIONS},
            "prompt": meta["positive"],
            "negative": meta["negative"],
            "output": {"image": "png", "seg_images": "float32"},
        },
        expected=tuple(arrays[f"out_{index}"].astype(np.float64) for index in range(len(items))),
        crop_regions=tuple(seg.crop_region for seg in items),
        pasted=None,
    )
    result = EngineRunner(repository).run(case)
    verdict = judge(case, result)
    assert verdict.passed, verdict
    assert [list(seg.bbox) for seg in result.report.segs] == meta["out_bboxes"]
