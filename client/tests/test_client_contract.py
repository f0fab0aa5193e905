"""The contract: every refusal names field, value and range; errors survive the wire."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jsonschema
import numpy as np
import pydantic
import pytest
from pydantic import BaseModel, ValidationError

import segs_client
from segs_client import contract, messages, schema
from segs_client.contract import ContractError, DetailRequest, ErrorDetail, parse_request
from segs_client.events import parse_event

DOCS = Path(__file__).parents[2] / "docs"
BOX = {"bbox": [0, 0, 8, 8]}
REGION = {**BOX, "crop_region": [0, 0, 8, 8]}


def item(**changes: Any) -> dict[str, Any]:
    return {"segs": {"items": [{**REGION, **changes}]}}


def buffer(**changes: Any) -> dict[str, Any]:
    return {"length": 64, "shape": [8, 8], "encoding": "uint8", **changes}


REFUSALS = [
    ({"guide_size": 12}, "guide_size: too small (got 12); allowed: 64 … 16384"),
    ({"guide_size": 1e9}, "guide_size: too large (got 1000000000.0); allowed: 64 … 16384"),
    ({"denoise": 0}, "denoise: too small (got 0); allowed: 0.0001 … 1"),
    ({"seed": -1}, "seed: too small (got -1); allowed: whole numbers 0 … 18446744073709551615"),
    ({"seed": 2**64}, "allowed: whole numbers 0 … 18446744073709551615"),
    ({"steps": 1.5}, "steps: not a whole number (got 1.5); allowed: whole numbers 1 … 10000"),
    ({"steps": "many"}, "steps: wrong type (got 'many'); allowed: whole numbers 1 … 10000"),
    ({"steps": True}, "steps: wrong type (got true); allowed: whole numbers 1 … 10000"),
    ({"cfg": "8"}, "cfg: wrong type (got '8'); allowed: 0 … 100"),
    ({"steps": None}, "steps: wrong type (got null); allowed: whole numbers 1 … 10000"),
    ({"steps": [1]}, "steps: wrong type (got [1]); allowed"),
    ({"steps": {"a": 1}}, "steps: wrong type; allowed"),
    ({"noise_mask": "perhaps"}, "noise_mask: wrong type (got 'perhaps'); allowed: true or false"),
    ({"sampler_name": "eular"}, "sampler_name: unknown value (got 'eular'); allowed: 'euler', "),
    ({"scheduler": 3}, "scheduler: unknown value (got 3); allowed: 'simple', 'sgm_uniform', "),
    ({"version": 2}, "version: unknown value (got 2); allowed: 1"),
    ({"pipeline": "../etc"}, "pipeline: malformed (got '../etc'); allowed: text matching ^[A-Za-z"),
    ({"pipeline": None}, "pipeline: wrong type (got null)"),
    ({"prompt": "a" * 100_001}, "allowed: text of at most 100000 characters"),
    ({"guidesize": 512}, "guidesize: unknown field (got 512); allowed: closest is 'guide_size'"),
    (
        {"paste": {"fether": 3}},
        "paste.fether: unknown field (got 3); allowed: closest is 'feather'",
    ),
    ({"zzz": True}, "zzz: unknown field (got true); allowed: version, pipeline, "),
    ({"paste": 5}, "paste: wrong type (got 5); allowed: an object with feather, alpha"),
    ({"paste": {"alpha": 256}}, "paste.alpha: too large (got 256); allowed: whole numbers 0 … 255"),
    (
        {"output": {"quality": 0}},
        "output.quality: too small (got 0); allowed: whole numbers 1 … 100",
    ),
    ({"crop_min_size": 0}, "crop_min_size: too small (got 0); allowed: whole numbers 1 … 1048576"),
    ({"segs": {"items": [{}]}}, "segs.items.0.bbox: required; allowed: a list of 4, each -1048"),
    (item(bbox=[0, 0, 8]), "segs.items.0.bbox.3: required; allowed: -1048576 … 1048576"),
    (item(bbox=[-2e6, 0, 8, 8]), "segs.items.0.bbox.0: too small (got -2000000.0); allowed: -1048"),
    (item(bbox=[0, 0, 8, "8"]), "segs.items.0.bbox.3: wrong type (got '8'); allowed: -1048576 …"),
    (
        item(bbox=[0.25, 0, 0.75, 8]),
        "segs.items.0.bbox: smaller than a pixel (got [0.25, 0, 0.75, 8]); allowed: x1, y1, x2, y2 "
        "in pixels",
    ),
    (
        item(crop_region=[0, 0, 8.5, 8]),
        "segs.items.0.crop_region.2: not a whole number (got 8.5); allowed: whole numbers 0 … 1048",
    ),
    (
        item(bbox=[8, 0, 8, 8]),
        "segs.items.0.bbox: has no area (got [8, 0, 8, 8]); allowed: x1, y1, x2, y2 with x2 > x1",
    ),
    (item(crop_region=None, mask=buffer()), "segs.items.0.crop_region: required where a mask"),
    (
        item(mask=buffer(length=63)),
        "segs.items.0.mask.length: does not fit the shape (got 63); allowed: 64 for uint8 of "
        "shape [8, 8]",
    ),
    (
        item(mask=buffer(shape=[8, 8, 4])),
        "segs.items.0.mask.shape: an image has 3 channels (got [8, 8, 4]); allowed: [height",
    ),
    (
        item(mask=buffer(shape=[4, 8, 3], length=96)),
        "segs.items.0.mask.shape: wrong number of axes (got [4, 8, 3]); allowed: [height, width]",
    ),
    (item(image=buffer()), "segs.items.0.image.shape: wrong number of axes (got [8, 8])"),
    (item(mask=buffer(shape=[8])), "segs.items.0.mask.shape: too few items (got [8]); allowed: a"),
    (item(label="x" * 1025), "segs.items.0.label: too long"),
    ({"segs": {"items": [BOX] * 4097}}, "segs.items: too many items"),
    ({"segs": {"size": [0, 5]}}, "segs.size.0: too small (got 0); allowed: whole numbers 1 … "),
    ({"image": {"encoding": "raw"}}, "image.shape: required with encoding 'raw'"),
    ({"image": {"shape": [4, 4, 3]}}, "image.shape: the file has its own (got [4, 4, 3])"),
    (
        {"scheduler_func": {"name": "sigmas"}},
        "scheduler_func.sigmas: no schedule (got []); allowed: one level or more, each below",
    ),
    (
        {"scheduler_func": {"name": "sigmas", "sigmas": [3, 3, 0]}},
        "scheduler_func.sigmas: no schedule (got [3.0, 3.0, 0.0]); allowed: one level or more",
    ),
    (
        {"scheduler_func": {"name": "karras", "sigmas": [3, 0]}},
        "scheduler_func.sigmas: levels for the curve 'karras' (got [3.0, 0.0]); allowed: name",
    ),
    (
        {"scheduler_func": {"name": "sigmas", "sigmas": [1, 1e-46, 0]}},
        "scheduler_func.sigmas: no schedule (got [1.0, 1e-46, 0.0]); allowed: one level or more, "
        "each below the one before in float32",
    ),
    (
        {"scheduler_func": {"name": "sigmas", "sigmas": [1, 1 - 1e-9, 0]}},
        "scheduler_func.sigmas: no schedule (got [1.0, 0.999999999, 0.0]); allowed: one level or",
    ),
    (
        {"scheduler_func": {"name": "exponential", "sigma_min": 1e-46}},
        "scheduler_func.sigma_min: too small (got 1e-46); allowed: ",
    ),
    (
        {"image": {"encoding": "raw", "shape": [4, 4, 4]}},
        "image.shape.2: unknown value (got 4); allowed: 3",
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSALS, ids=lambda value: str(value)[:60])
def test_refusal_names_field_value_and_range(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_request(json.dumps({"pipeline": "base", **changes}))
    assert words in str(caught.value)
    detail = caught.value.detail
    assert detail.code == "INVALID_ARGUMENT"
    assert detail.message.startswith(f"{detail.field}: ")
    assert detail.allowed
    assert len(detail.value or "") <= 80


@pytest.mark.parametrize(
    ("options", "beyond"),
    [
        ({}, 1),
        ({"batch_size": 100}, 100),
        ({"cycle": 10}, 10),
        ({"batch_size": 3, "cycle": 4}, 6),
        ({"sampler_name": "ddim"}, 2),
        ({"sampler_name": "ddim", "noise_mask": False}, 1),
        ({"sampler_name": "ddim", "batch_size": 2, "cycle": 2}, 4),
        ({"sampler_name": "euler", "noise_mask": True}, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("field", ["seed", "segs.items.1.seed"])
def test_a_seed_from_which_another_would_reach_2_to_the_64_is_refused(
    options: dict[str, Any], beyond: int, field: str
) -> None:
    """Each pass and each cycle adds 1, and ddim for the noise outside the mask."""
    largest = 2**64 - 1 - beyond

    def request(seed: int, **changes: Any) -> str:
        own = {} if field == "seed" else {"seed": seed}
        items = [{**BOX, "seed": 5}, {**BOX, **own, **changes}]
        whole = {"seed": 5 if own else seed, "segs": {"items": items}}
        return json.dumps({"pipeline": "base", **options, **whole})

    assert parse_request(request(largest))
    for seed in (largest + 1, 2**64 - 1):
        with pytest.raises(ContractError) as caught:
            parse_request(request(seed))
        detail = caught.value.detail
        assert (detail.field, detail.value) == (field, str(seed))
        assert detail.allowed == f"whole numbers 0 … {largest}"
        assert parse_request(request(seed, skip=True))  # which has no noise


def test_a_seed_that_no_seg_uses_may_be_any() -> None:
    assert parse_request(json.dumps({"pipeline": "base", "seed": 2**64 - 1}))
    own = {"segs": {"items": [{**BOX, "seed": 1}]}}
    assert parse_request(json.dumps({"pipeline": "base", "seed": 2**64 - 1, **own}))


@pytest.mark.parametrize("sigmas", [[0.0], [3.0], [3.0, 0.0], [3.0, 0.03]])
def test_levels_may_be_few_and_need_not_end_with_0(sigmas: list[float]) -> None:
    func = {"sigmas": sigmas}
    request = parse_request(json.dumps({"pipeline": "base", "scheduler_func": func}))
    assert request.scheduler_func is not None
    assert request.scheduler_func.sigmas == tuple(sigmas)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "request: not valid JSON"),
        ("{", "line 1 column 1; allowed: one JSON object"),
        (b'{"pipeline": "\xff"}', "request: not valid JSON"),
        ("[" * 50_000, "request: not valid JSON"),
        (
            '{"pipeline": "base", "cfg": NaN}',
            "cfg: not a finite number (got NaN); allowed: 0 … 100",
        ),
        ('{"pipeline": "base", "confidence": 1e999}', "confidence: unknown field"),
        ("[1]", "request: wrong type (got [1]); allowed: an object with version, pipeline"),
        ("7", "request: wrong type (got 7)"),
        (" " * (4 * 2**20 + 1), "request: too long: 4194305 bytes; allowed: at most 4194304"),
        ('{"pipeline": "base", "seed": ' + "9" * 4000 + "}", "seed: too large"),
        ("{}", "pipeline: required; allowed: text matching"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_text_that_is_no_request(text: str | bytes, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_request(text)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_minimal_request_has_the_published_defaults() -> None:
    request = parse_request('{"pipeline": "base"}')
    assert (request.guide_size, request.max_size, request.steps, request.cfg) == (512, 768, 20, 8)
    assert (request.sampler_name, request.denoise, request.noise_mask_feather) == ("euler", 0.5, 20)


def test_any_validation_error_is_told() -> None:
    class Other(BaseModel):
        when: dict[str, bytes]

    with pytest.raises(ValidationError) as caught:
        Other.model_validate({"when": 3})
    assert "when" in str(contract.from_validation_error(caught.value))


def test_status_message_round_trip() -> None:
    detail = ErrorDetail(code="UNAVAILABLE", message="queue is\nfull", request_id="r")
    text = detail.to_status_message()
    assert text.startswith("queue is full\n{")
    assert len(text.splitlines()) == 2
    assert ErrorDetail.from_status_message(text) == detail
    assert ErrorDetail.from_status_message(f"in ensemble 'segs_detailer', {text}\n") == detail
    assert ErrorDetail.from_status_message(text.replace("\n", " ")) == detail


@pytest.mark.parametrize("name", ["a\x00b", "\x00", "\u202e\x1b[31m"])
def test_a_status_message_has_no_character_that_ends_it_or_changes_a_log(name: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_request(json.dumps({"pipeline": "base", name: 1}))
    text = caught.value.detail.to_status_message()
    assert text.replace("\n", "", 1).isprintable() or "\u202e" in text.splitlines()[1]
    assert text.splitlines()[0].isprintable()
    detail = ErrorDetail.from_status_message(text)
    assert detail is not None and detail.field == name


@pytest.mark.parametrize("text", ["", "failed", "failed\n{}", '{"code": "NO", "message": ""}', "{"])
def test_status_message_without_detail(text: str) -> None:
    assert ErrorDetail.from_status_message(text) is None


@pytest.mark.parametrize("character", ["a", "é", "🙂", "\n", '"', "\x00"])
def test_status_message_stays_below_the_limit_of_grpc(character: str) -> None:
    long = character * 5000
    detail = ErrorDetail(code="INTERNAL", message=long, field=long, value=long, allowed=long)
    text = detail.to_status_message()
    assert len(quote(text)) <= 6000
    assert ErrorDetail.from_status_message(text) is not None


@pytest.mark.skipif(
    tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 10),
    reason="older pydantic words the same schema otherwise",
)
def test_schema_file_is_fresh() -> None:
    committed = (DOCS / "contract.schema.json").read_text(encoding="utf-8")
    # Parsed, since releases of pydantic differ in writing 64 or 64.0.
    assert json.loads(committed) == schema.contract_schema(), "run: python -m segs_client.schema"


def test_schema_writes_where_told(tmp_path: Path) -> None:
    schema.main([str(tmp_path / "schema.json")])
    assert json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))["version"] == 1


def validator(part: str) -> jsonschema.Draft202012Validator:
    root = schema.contract_schema()
    jsonschema.Draft202012Validator.check_schema(root)
    return jsonschema.Draft202012Validator({**root, "$ref": f"#/$defs/{part}"})


def examples(part: str) -> list[str]:
    """The JSON blocks of docs/contract.md under the heading of ``part``."""
    section = (DOCS / "contract.md").read_text(encoding="utf-8").split(f"\n## {part}\n")[1]
    blocks = section.split("\n## ")[0].split("```json\n")[1:]
    assert blocks
    return [block.split("```")[0] for block in blocks]


@pytest.mark.parametrize(
    ("part", "heading", "model"),
    [
        ("request", "Request", DetailRequest),
        ("report", "Report", contract.Report),
        ("error", "Errors", ErrorDetail),
    ],
)
def test_documented_examples_are_valid(part: str, heading: str, model: type[BaseModel]) -> None:
    for example in examples(heading):
        validator(part).validate(json.loads(example))
        model.model_validate_json(example)


def test_documented_streams_are_valid() -> None:
    event, request = examples("Streams")
    validator("event").validate(json.loads(event))
    parse_event(event)
    asked = DetailRequest.model_validate_json(request)
    assert asked.stream == DetailRequest(pipeline="base").stream  # those are the defaults


def test_built_requests_match_the_schema_and_bad_ones_do_not() -> None:
    built = messages.build(np.zeros((8, 8, 3)), [(0, 0, 4, 4)], pipeline="base")
    validator("request").validate(json.loads(built.request.model_dump_json()))
    with pytest.raises(jsonschema.ValidationError):
        validator("request").validate({"pipeline": "base", "guide_size": 1})
    with pytest.raises(jsonschema.ValidationError):
        validator("request").validate({"pipeline": "base", "unknown": 1})


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.iter_modules(segs_client.__path__)]
)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(f"segs_client.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS, extraglobs={"np": np})
    assert failed == 0
