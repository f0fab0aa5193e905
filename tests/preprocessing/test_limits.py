"""What is too much, or lies about itself, is refused before anything of it is decoded or made."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.descriptor import ControlNetSpec, Network
from preprocessing import control, seg_reader
from preprocessing.images import encode
from preprocessing.prepare import Prepared, RequestTensors, prepare
from request_plan.limits import DEFAULT, Limits
from segs_client.arrays import ByteArray
from segs_client.contract import ContractError
from segs_client.picture_files import PictureFile
from tests import icc
from tests.cpu import is_cheap
from tests.preprocessing.test_images import flat, png_header
from tests.preprocessing.test_prepare import BASE

LIMIT = 20
"""Of a refusal, in :func:`is_cheap`'s loops."""

_EDGES = ControlNetSpec(
    network=Network(model="edges", max_batch=1, inputs={}, outputs={}, files={}), unet="u"
)
CONTROLLED = BASE.model_copy(update={"controlnets": {"edges": _EDGES}})
PICTURE = encode(np.zeros((96, 128, 3), dtype=np.uint8), "png", 95)
PROFILED = encode(np.zeros((96, 128, 3), dtype=np.uint8), "png", 95, icc.rgb())
SEG = {"bbox": [0, 0, 64, 64], "crop_region": [0, 0, 64, 64]}
MASK = {"length": 4096, "shape": [64, 64], "encoding": "uint8"}


class WorkDoneError(Exception):
    """Something was decoded or made."""


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work on pixels fails."""

    def work(*_: object, **__: object) -> None:
        raise WorkDoneError

    monkeypatch.setattr(PictureFile, "decode", work)
    for module, name in (
        (seg_reader, "read_buffer"),
        (seg_reader, "box_mask"),
        (seg_reader, "resize_lanczos"),
        (control, "read_buffer"),
    ):
        monkeypatch.setattr(module, name, work)


def asked(
    limits: Limits = DEFAULT,
    picture: ByteArray = PICTURE,
    masks: bytes | ByteArray | None = None,
    images: ByteArray | None = None,
    controls: ByteArray | None = None,
    **request: Any,
) -> Prepared:
    text = json.dumps({"pipeline": "base", "guide_size": 64, **request}).encode()
    tensor = flat(masks) if isinstance(masks, bytes) else masks
    inputs = RequestTensors(text, picture, tensor, images, controls)
    return prepare(inputs, pipelines={"base": CONTROLLED}, limits=limits)


def segs(count: int = 1, **changes: Any) -> dict[str, Any]:
    return {"items": [{**SEG, **changes}] * count}


def edges(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "edges", **changes}]


def few(**limits: Any) -> Limits:
    return replace(DEFAULT, **limits)


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "json bytes": ({"limits": few(max_json_bytes=30)}, "request", "too long"),
    "json containers": (
        {"limits": few(max_json_containers=3), "segs": segs()}, "request", "too many lists"
    ),
    "json names": ({"limits": few(max_json_names=1)}, "request", "too many colons"),
    "json values": (
        {"limits": few(max_json_values=5), "segs": segs()}, "request", "too many commas"
    ),
    "tensor bytes": ({"limits": few(max_tensor_bytes=50)}, "image", "too long"),
    "mask tensor bytes": (
        {"limits": few(max_tensor_bytes=500), "masks": bytes(501)}, "masks", "too long"
    ),
    "picture pixels": (
        {"limits": few(max_picture_pixels=96 * 128 - 1)}, "image", r"too large \(got '128×96'\)"
    ),
    "picture side": ({"limits": few(max_picture_side_px=127)}, "image", "too large"),
    "picture of the largest": ({"picture": flat(png_header(8001, 8000))}, "image", "too large"),
    "raw picture": (
        {"picture": flat(b""), "image": {"encoding": "raw", "shape": [2**20, 2**20, 3]}},
        "image.shape", "too large",
    ),
    "size of the SEGS": ({"segs": {"size": [2**20, 2**20]}}, "segs.size", "too large"),
    "SEGs": ({"segs": segs(1025)}, "segs.items", r"too many \(got 1025\); allowed: up to 1024"),
    "passes": (
        {"segs": segs(1000), "batch_size": 5, "guide_size": 64, "max_size": 64},
        "batch_size", "too many SEGs in all passes",
    ),
    "sampled pixels of a SEG": (
        {"segs": segs(), "guide_size": 2049, "max_size": 4000}, "segs.items.0", "sampled too large"
    ),
    "sampled pixels of all": (
        {"segs": segs(100), "guide_size": 2048, "max_size": 2048}, "segs.items", "together"
    ),
    "work": (
        {"segs": segs(2), "guide_size": 2048, "max_size": 2048, "steps": 10_000, "cycle": 2},
        "steps", "too much work",
    ),
    "work of one SEG's steps": (
        {"segs": segs(40, steps=10_000), "guide_size": 512}, "steps", "too much work"
    ),
    "work of prompts and ControlNets": (
        {"segs": segs(20), "steps": 1000, "guide_size": 512, "controlnets": edges(),
         "prompts": [{"text": "a"}] * 16, "negatives": [{"text": "a"}] * 16},
        "steps", "too much work",
    ),
    "prompt": ({"prompt": "a" * 10_001, "segs": segs()}, "prompt", "too long"),
    "prompt of a SEG": (
        {"segs": segs(prompt="a" * 10_001)}, "segs.items.0.prompt", "too long"
    ),
    "prompt with another": (
        {"prompts": [{"text": "a"}, {"text": "a" * 10_001}]}, "prompts.1.text", "too long"
    ),
    "prompt of the refiner": (
        {"refiner": {"pipeline": "base", "negative": "a" * 10_001}, "segs": segs()},
        "refiner.negative", "too long",
    ),
    "prompt with its wildcards": (
        {"prompt": "__a__" * 2000, "wildcards": {"a": ["b" * 6]}, "segs": segs()}, "prompt", "ever"
    ),
    "prompts together": (
        {"segs": {"items": [{**SEG, "prompt": f"{n}" + "a" * 9000} for n in range(250)]}},
        "segs.items.111.prompt", "together",
    ),
    "wildcards of every seed": (
        {"prompt": "{a|b}" * 1999, "segs": {"items": [{**SEG, "seed": n} for n in range(1024)]}},
        "prompt", "together",
    ),
    "unknown embedding": (
        {"segs": {"items": [SEG, {**SEG, "negative": "embedding:x"}]}}, "prompt", "embedding"
    ),
    "masks of whole pictures": (
        {"picture": flat(png_header(8000, 8000)), "force_inpaint": False,
         "segs": {"items": [{"bbox": [0, 0, 8000, 8000]}] * 20}},
        "segs.items", "too large together",
    ),
    "answer of many crops": (
        {"picture": flat(png_header(4000, 4000)), "output": {"seg_images": "float32"},
         "force_inpaint": False, "segs": {"items": [{"bbox": [0, 0, 4000, 4000]}] * 6}},
        "output", "too much to send back",
    ),
    "answer of many passes": (
        {"picture": flat(png_header(4000, 4000)), "output": {"seg_images": "uint8"},
         "force_inpaint": False, "batch_size": 30,
         "segs": {"items": [{"bbox": [0, 0, 4000, 4000]}]}},
        "output", "too much to send back",
    ),
    "answer of control images": (
        {"limits": few(max_answer_bytes=10**6), "segs": segs(3), "guide_size": 512,
         "output": {"control_images": True}, "controlnets": edges() * 8},
        "output", "too much to send back",
    ),
    "answer with a profile": (
        {"limits": few(max_answer_bytes=10**6), "picture": PROFILED, "segs": segs()},
        "output", "too much to send back",
    ),
    "memory of a profile": (
        {"limits": few(max_request_memory_bytes=4 * 10**6), "picture": PROFILED, "segs": segs()},
        "segs.items", "too large together",
    ),
    "answer in WebP": (
        {"picture": flat(png_header(16_384, 8)), "output": {"image": "webp"}},
        "output.image", "too large for it",
    ),
    "masks of prompts": (
        {"picture": flat(png_header(8000, 8000)), "masks": png_header(8000, 8000),
         "prompts": [{"mask": {"length": 57, "shape": [8000, 8000], "encoding": "png"}}]},
        "prompts.0.mask", "not the picture that was announced",
    ),
    "control image": (
        {"controlnets": edges(image={"length": 57, "shape": [2**16, 2**16, 3], "encoding": "png"}),
         "controls": flat(png_header(60_000, 60_000))},
        "controlnets.0.image.shape", "too large",
    ),
    "region outside": (
        {"segs": {"items": [SEG, {**SEG, "crop_region": [0, 90, 64, 97]}]}},
        "segs.items.1.crop_region", "outside",
    ),
    "mask of another shape": (
        {"segs": segs(mask={**MASK, "length": 4032, "shape": [63, 64]}), "masks": bytes(4096)},
        "segs.items.0.mask.shape", "not the crop region's",
    ),
    "mask that is not there": ({"segs": segs(mask=MASK)}, "segs.items.0.mask", "ends at byte 4096"),
    "mask behind the end": (
        {"segs": segs(mask={**MASK, "offset": 1}), "masks": bytes(4096)},
        "segs.items.0.mask", "ends at byte 4097",
    ),
    "mask far behind the end": (
        {"segs": segs(mask={**MASK, "offset": 2**40}), "masks": bytes(4096)},
        "segs.items.0.mask", "ends at byte",
    ),
    "mask whose place wraps": (
        {"segs": segs(mask={**MASK, "offset": 2**64 - 4096}), "masks": bytes(4096)},
        "segs.items.0.mask.offset", "too large",
    ),
    "mask before the start": (
        {"segs": segs(mask={**MASK, "offset": -1}), "masks": bytes(4096)},
        "segs.items.0.mask.offset", "too small",
    ),
    "mask whose shape lies": (
        {"segs": segs(mask={**MASK, "shape": [2**20, 2**20]}), "masks": bytes(4096)},
        "segs.items.0.mask.length", "does not fit",
    ),
    "mask of another file": (
        {"segs": segs(mask={**MASK, "length": 57, "encoding": "png"}),
         "masks": png_header(60_000, 60_000)},
        "segs.items.0.mask", "not the picture that was announced",
    ),
    "crop that is not there": (
        {"segs": segs(image={"length": 12288, "shape": [64, 64, 3], "encoding": "uint8"})},
        "segs.items.0.image", "ends at byte",
    ),
    "control image that is not there": (
        {"controlnets": edges(image={"length": 12, "shape": [2, 2, 3], "encoding": "uint8"})},
        "controlnets.0.image", "ends at byte",
    ),
    "unknown ControlNet of the last SEG": (
        {"segs": {"items": [SEG, {**SEG, "controlnets": [{"name": "x"}]}]}},
        "segs.items.1.controlnets.0.name", "unknown ControlNet",
    ),
    "unknown preprocessor": (
        {"controlnets": edges(preprocessor="x")}, "controlnets.0.preprocessor", "unknown"
    ),
    "a schedule that would take the engine seconds": (
        {"segs": {"items": [SEG, {**SEG, "denoise": 0.0001}]}, "steps": 21},
        "segs.items.1.denoise", "steps / denoise is too large",
    ),
    "nothing left at the picture's size": (
        {"segs": {"size": [960, 1280], "items": [{**SEG, "bbox": [0, 0, 8, 8]}]}},
        "segs.items.0.bbox", "nothing is left",
    ),
    "a box beyond all pictures at the picture's size": (
        {"segs": {"size": [64, 64], "items": [
            {**SEG, "bbox": [-1e6, 0, 8, 8], "crop_region": [0, 0, 64, 64]}
        ]}},
        "segs.items.0.bbox", "too far outside the picture",
    ),
    "a box that overlaps the picture, its centre to the left of it": (
        {"segs": {"items": [{"bbox": [-100, 0, 20, 50]}]}},
        "segs.items.0.bbox", r"its centre x -40, y 25 is outside the picture .* centre inside: x 0",
    ),
    "a box that overlaps the picture, its centre below it": (
        {"segs": {"items": [SEG, {"bbox": [5.5, 10, 20, 1e5]}]}},
        "segs.items.1.bbox", r"its centre x 12\.75, y 50005 is outside the picture",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_before_any_work(name: str) -> None:
    case, field, words = CASES[name]

    def refused() -> None:
        with pytest.raises(ContractError, match=words) as refusal:
            asked(**case)
        assert refusal.value.detail.field == field
        assert refusal.value.detail.allowed

    assert is_cheap(refused, LIMIT)


@pytest.mark.usefixtures("idle")
def test_what_is_within_the_limits_comes_to_work() -> None:
    for fields_of in ({}, {"segs": segs(1024)}, {"segs": segs(40), "steps": 10_000}):
        with pytest.raises(WorkDoneError):
            asked(**fields_of)


@pytest.mark.usefixtures("idle")
def test_the_largest_message_with_its_mistake_at_the_end_is_refused_at_once() -> None:
    """A PNG of 64 megapixels, 1,024 SEGs with a mask in PNG and a prompt each; the last box lies
    outside."""
    picture = encode(np.zeros((8000, 8000, 3), dtype=np.uint8), "png", 95)
    grey = _grey_png(64, 64)
    items: list[dict[str, Any]] = [
        {
            **SEG,
            "prompt": f"{index} " + "a red hat and " * 150,
            "mask": {
                "offset": index * len(grey), "length": len(grey), "shape": [64, 64],
                "encoding": "png",
            },
        }
        for index in range(1024)
    ]  # fmt: skip
    items[-1]["crop_region"] = [7999, 0, 8063, 64]
    body = {"pipeline": "base", "guide_size": 64, "segs": {"items": items}}
    text = json.dumps(body).encode()
    masks = flat(grey * 1024)
    assert len(text) > 2 * 2**20

    def refused() -> None:
        with pytest.raises(ContractError) as refusal:
            prepare(RequestTensors(text, picture, masks), pipelines={"base": BASE})
        assert refusal.value.detail.field == "segs.items.1023.crop_region"

    assert is_cheap(refused, 2 * LIMIT)


def _grey_png(height: int, width: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (width, height), 255).save(out, "png")
    return out.getvalue()


def test_memory_is_told_by_declared_shapes() -> None:
    plan = asked(segs=segs(2), guide_size=64, max_size=64).plan
    picture, region, sampled = 96 * 128 * 18, 64 * 64 * 4 * 2, 64 * 64 * 3 * 2
    assert plan.memory_bytes == picture + 2 * (region + sampled)
    more = asked(
        segs=segs(2), guide_size=64, max_size=64, batch_size=3,
        controlnets=edges(preprocessor="invert"), output={"seg_images": "float32"},
    ).plan  # fmt: skip
    added = 64 * 64 * (3 * 2 + 3 + 12 * 3)  # two more passes, a hint, what is sent back
    assert more.memory_bytes == plan.memory_bytes + 2 * added


def test_an_operator_chooses_by_name() -> None:
    chosen = Limits.from_mapping(Limits.read('{"max_segs": 3, "max_slowdown": 2}'))
    assert (chosen.max_segs, chosen.max_slowdown) == (3, 2)
    assert chosen == replace(DEFAULT, max_segs=3, max_slowdown=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"max_seg": 3}', "max_seg: no such limit; closest is max_segs"),
        ('{"max_segs": 0}', "max_segs: a whole number, 1 … 4096, got 0"),
        ('{"max_segs": 1.5}', "max_segs: a whole number"),
        ('{"max_segs": true}', "max_segs: a whole number"),
        ('{"max_segs": null}', "max_segs: a whole number"),
        ('{"max_segs": "3"}', "max_segs: a whole number"),
        ('{"max_work": NaN}', "max_work: a number"),
        ('{"max_slowdown": 0.5}', "max_slowdown: a number"),
        ('{"max_memory_bytes": 1000}', "max_memory_bytes: at least max_request_memory_bytes"),
        ("[]", "one JSON object"),
        ("{", "Expecting"),
    ],
)
def test_limits_have_limits(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limits.from_mapping(Limits.read(text))


def test_every_limit_says_what_it_bounds() -> None:
    for each in fields(Limits):
        assert each.metadata["bounds"]
        assert each.metadata["beyond"]
