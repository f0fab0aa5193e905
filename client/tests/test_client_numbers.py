"""Numbers are read from numbers only, in every field of a request that holds one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from segs_client import InvalidRequest, messages
from segs_client.contract import ContractError, parse_request, request_schema

Path = tuple[str | int, ...]

MASK = {"offset": 1, "length": 64, "shape": [8, 8], "encoding": "uint8"}
PICTURE = {**MASK, "length": 192, "shape": [8, 8, 3]}
PROMPT = {"mask": MASK, "strength": 1.5}
CONTROL = {
    "name": "edges",
    "strength": 1,
    "start_percent": 0.25,
    "end_percent": 0.75,
    "image": PICTURE,
}
FULL = {
    "version": 1,
    "pipeline": "base",
    "prompts": [PROMPT],
    "negatives": [PROMPT],
    "image": {"encoding": "raw", "shape": [8, 8, 3]},
    "segs": {
        "size": [8, 8],
        "items": [
            {
                "seed": 3,
                "steps": 4,
                "cfg": 5.5,
                "denoise": 0.5,
                "controlnets": [CONTROL],
                "bbox": [1, 2, 6, 7],
                "crop_region": [0, 0, 8, 8],
                "confidence": 0.5,
                "mask": MASK,
                "image": PICTURE,
            }
        ],
    },
    "crop_factor": 3,
    "crop_min_size": 8,
    "guide_size": 512,
    "max_size": 768.5,
    "seed": 7,
    "steps": 20,
    "cfg": 8,
    "denoise": 0.5,
    "batch_size": 1,
    "cycle": 1,
    "noise_mask_feather": 20,
    "refiner_ratio": 0.2,
    "scheduler_func": {
        "name": "sigmas",
        "sigma_min": 0.5,
        "sigma_max": 14,
        "rho": 7,
        "sigmas": [2, 1.5, 0],
    },
    "controlnets": [CONTROL],
    "paste": {"feather": 5, "alpha": 255},
    "output": {"quality": 95},
    "stream": {"preview_every": 2, "preview_size_px": 128},
}


def numbers_of_schema(node: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """Where the schema has numbers; items of a list of any length are item 0."""
    if "$ref" in node:
        node = request_schema()["$defs"][node["$ref"].rpartition("/")[2]]
    for choice in (*node.get("anyOf", ()), *node.get("allOf", ())):
        yield from numbers_of_schema(choice, path)
    if node.get("type") in ("integer", "number") or isinstance(node.get("const"), int):
        yield path
    for name, child in node.get("properties", {}).items():
        yield from numbers_of_schema(child, (*path, name))
    items = node.get("prefixItems") or ([node["items"]] if "items" in node else [])
    for index, child in enumerate(items):
        yield from numbers_of_schema(child, (*path, index))
    for child in node.get("patternProperties", {}).values():
        yield from numbers_of_schema(child, (*path, "any"))


def numbers_of(document: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(document, int | float):
        yield path
    elif isinstance(document, dict | list):
        pairs = document.items() if isinstance(document, dict) else enumerate(document)
        for key, child in pairs:
            yield from numbers_of(child, (*path, key))


NUMBERS = list(numbers_of(FULL))


def with_value(path: Path, change: Any) -> str:
    """The full request's JSON with one value changed."""
    document = json.loads(json.dumps(FULL))  # parts that occur twice are no longer the same object
    parent: Any = document
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = change(parent[path[-1]])
    return json.dumps(document)


def test_the_full_request_has_every_number_of_the_schema() -> None:
    parse_request(json.dumps(FULL))
    assert set(numbers_of_schema(request_schema())) <= set(NUMBERS)


@pytest.mark.parametrize(
    ("shown", "change"),
    [
        ("true", lambda value: True),
        ("false", lambda value: False),
        (None, lambda value: str(value)),
        ("'many'", lambda value: "many"),
    ],
)
@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: ".".join(map(str, path)))
def test_truth_and_text_are_no_numbers(path: Path, shown: str | None, change: Any) -> None:
    with pytest.raises(ContractError) as caught:
        parse_request(with_value(path, change))
    detail = caught.value.detail
    assert (detail.code, detail.field) == ("INVALID_ARGUMENT", ".".join(map(str, path)))
    assert detail.value is not None and detail.value == (shown or detail.value)
    assert detail.message.endswith(f"wrong type (got {detail.value}); allowed: {detail.allowed}")
    assert detail.allowed


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: ".".join(map(str, path)))
def test_whole_numbers_may_be_written_with_a_point(path: Path) -> None:
    if path in (("version",), ("image", "shape", 2)):  # older pydantic compares constants exactly
        return
    assert parse_request(with_value(path, float)) == parse_request(json.dumps(FULL))


def test_the_client_takes_numbers_of_numpy_and_no_truth() -> None:
    picture, boxes = np.zeros((8, 8, 3)), [tuple(np.array([0, 0, 4, 4]))]
    built = messages.build(
        picture, boxes, pipeline="base", steps=np.int64(3), cfg=np.float32(2.5), seed=np.uint64(7)
    )
    assert (built.request.steps, built.request.cfg, built.request.seed) == (3, 2.5, 7)
    for wrong in (True, "3"):
        with pytest.raises(InvalidRequest, match="steps: wrong type"):
            messages.build(picture, boxes, pipeline="base", steps=wrong)
