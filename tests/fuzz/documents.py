"""(a) The JSON of a request: valid ones, and mutations that know its schema."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from request_plan.plan import Plan
from segs_client.contract import ContractError, DetailRequest, parse_request, request_schema

Json = Any
Path = tuple[str | int, ...]

SIDE_PX = 64
SIZE = (48, SIDE_PX)
"""Height and width of the pictures that valid requests are made for."""
MOST_BYTES = 1 << 20
"""Of a document: what is longer takes its time to travel."""
MOST_CALLS = 64
"""Steps, passes and cycles that a request may ask for: more would only keep others waiting."""

_TEXTS = (
    "",
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff\ud800",
    "é" * 300,
    "\U0001f642" * 50,
    "\u202e\u0000\u2028\x1b[31m\r\n",
    "../../../../etc/passwd",
    "/dev/shm/x",
    "%s%n%x",
    "A" * 5000,
    "a b" * 3000,
    "{" * 2000,
    "{a|{b|{c|d}}}",
    "{" + "9" * 400 + "::a|b}",
    "{0::a|0::b}",
    "__a__",
    "__" * 500,
    "(" * 1500 + "x" + ")" * 1500,
    "((a:1e308):1e308)",
    "(a:nan)(b:-1e400)(c:)",
    "embedding:../../x embedding:",
    "[SEP]" * 2000,
    "sd15_unet",
    "null",
    "NaN",
    "-0",
    "\\",
    '"',
)
_NUMBERS = (
    0, -0.0, 1, -1, 2, 7, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1,
    2**64, -(2**63) - 1, 10**30, 10**4200, 1e-320, 1e308, -1e308, 0.1, 1.5, float("nan"),
    float("inf"), float("-inf"),
)  # fmt: skip
_FRAGMENTS = (
    b"\x00", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"//x\n", b"/**/", b",", b"}",
    b"]", b"{", b"[", b'"', b"'", b"\\", b"\\u", b"\\ud83d", b"1e999", b"-", b"+1", b"0x10", b"01",
    b"NaN", b"nul", b"\n" * 100, b" " * 5000, b"[" * 300, b"[" * 20000, b'{"a":' * 400,
    b'{"a":' * 20000, b'"pipeline":"sdxl",', b'"steps":1,"steps":2,',
)  # fmt: skip


def valid(rng: random.Random, pipeline: str) -> Json:
    """A valid request, cheap to answer, for a raw picture of :data:`SIZE` and no other tensor."""
    height, width = SIZE
    document: Json = {
        "pipeline": pipeline,
        "prompt": rng.choice(["", "a face", "a {smiling|laughing} face", "(x:1.2) [y]"]),
        "image": {"encoding": "raw", "shape": [height, width, 3]},
        "segs": {"items": [_item(rng) for _ in range(rng.choice([0, 1, 1, 1, 2, 3]))]},
        "guide_size": 64,
        "max_size": 64,
        "steps": rng.choice([1, 1, 2]),
        "seed": rng.randrange(2**64),
        "sampler_name": rng.choice(["euler", "ddim", "dpmpp_2m", "lcm", "uni_pc"]),
        "scheduler": rng.choice(["normal", "karras", "simple", "beta"]),
        "output": {"image": rng.choice(["png", "jpeg", "raw", "none"])},
    }
    for name, value in (
        ("segs.size", [height, width]),
        ("crop_factor", 1.5),
        ("denoise", 0.7),
        ("wildcards", {"light": ["soft", "hard"]}),
        ("seg_prompts", {"text": "a [SEP] b", "order": "left_to_right"}),
        ("shapes", "throughput"),
        ("cycle", 2),
        ("prompts", [{"text": "freckles", "strength": 0.5}]),
        ("scheduler_func", {"name": "sigmas", "sigmas": [10.0, 3.0, 1.0, 0.0]}),
        ("paste", {"feather": 3, "alpha": 200}),
    ):
        if rng.random() < 0.15:
            put(document, tuple(name.split(".")), value)
    return document


def _item(rng: random.Random) -> Json:
    height, width = SIZE
    x1, y1 = rng.randrange(width - 16), rng.randrange(height - 16)
    item: Json = {"bbox": [x1, y1, x1 + rng.randint(8, 16), y1 + rng.randint(8, 16)]}
    if rng.random() < 0.3:
        item["bbox"] = [edge + rng.choice((0, rng.uniform(-3, 3))) for edge in item["bbox"]]
    if rng.random() < 0.3:
        item["label"] = "face"
    if rng.random() < 0.2:
        item["crop_region"] = [0, 0, width, height]
    if rng.random() < 0.1:
        item["skip"] = True
    return item


def hostile(rng: random.Random, document: Json) -> bytes:
    """One to three mutations of a document, as JSON text that need not be JSON any more."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.random()
        if kind < 0.45:
            path, node = rng.choice(fields())
            put(document, path, _value(rng, node))
        else:
            _change(rng, document)
    text = dumps(document)
    if rng.random() < 0.3:
        text = hostile_text(rng, text)
    return text


def hostile_text(rng: random.Random, text: bytes) -> bytes:
    """One mutation of the text itself."""
    kind = rng.randrange(7)
    place = rng.randrange(len(text) + 1)
    if kind == 0:
        return text[:place]
    if kind == 1:
        return text[:place] + rng.choice(_FRAGMENTS) + text[place:]
    if kind == 2:
        end = min(len(text), place + rng.randint(1, 12))
        return text[:place] + text[end:]
    if kind == 3 and text:
        changed = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 4:
        return text + text
    if kind == 5:
        return rng.choice(_FRAGMENTS)
    return rng.randbytes(rng.randrange(200))


def dumps(document: Json) -> bytes:
    """JSON text, with NaN and lone surrogates where the document has them."""
    return json.dumps(document).encode()


@functools.cache
def fields() -> tuple[tuple[Path, Json], ...]:
    """Every field that a request may have, with its node of the JSON Schema."""
    schema = request_schema()
    return tuple(_walk(schema, schema, (), 6))


def _walk(node: Json, root: Json, path: Path, depth: int) -> Iterator[tuple[Path, Json]]:
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    if path:
        yield path, node
    if depth == 0:
        return
    for part in node.get("anyOf", ()):
        yield from _walk(part, root, path, depth - 1)
    for name, child in node.get("properties", {}).items():
        yield from _walk(child, root, (*path, name), depth - 1)
    if isinstance(node.get("items"), dict):
        yield from _walk(node["items"], root, (*path, 0), depth - 1)


def _value(rng: random.Random, node: Json) -> Json:
    """What a field should not be, or only just may."""
    near: list[Json] = []
    for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if bound in node:
            near += [node[bound] - 1, node[bound], node[bound] + 1, node[bound] + 1e-9]
    near += node.get("enum", [])
    if node.get("maxLength", 0):
        near += ["x" * (node["maxLength"] + extra) for extra in (0, 1)]
    if near and rng.random() < 0.6:
        return rng.choice(near)
    return any_value(rng)


def any_value(rng: random.Random, depth: int = 3) -> Json:
    """Anything that JSON can say, and a little more."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(_NUMBERS)
    if kind < 4:
        return rng.choice(_TEXTS)
    if kind == 4:
        return rng.choice([None, True, False])
    if kind == 5:
        return {rng.choice(_TEXTS): any_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    if kind == 6:
        count = rng.choice([0, 1, 2, 3, 4, 5, 17, 5000])
        return [any_value(rng, 0 if count > 17 else depth - 1)] * count
    nested: Json = any_value(rng, 0)
    for _ in range(rng.choice([3, 50, 120, 240])):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return nested


def _change(rng: random.Random, document: Json) -> None:
    """Replaces, removes, renames or repeats something in the document."""
    places = list(_places(document))
    if not places:
        return
    parent, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(_TEXTS[:9])] = parent.pop(key)
    elif kind == 2 and isinstance(parent, list):
        parent[key:key] = [parent[key]] * rng.choice([1, 2, 40])
    elif kind == 3 and isinstance(parent[key], (int, float)):
        parent[key] = rng.choice([parent[key] + 1, parent[key] - 1, -parent[key], str(parent[key])])
    else:
        parent[key] = any_value(rng)


def _places(node: Json) -> Iterator[tuple[Json, Any]]:
    pairs: list[tuple[Any, Json]] = []
    if isinstance(node, dict):
        pairs = list(node.items())
    elif isinstance(node, list):
        pairs = list(enumerate(node[:20]))
    for key, child in pairs:
        yield node, key
        yield from _places(child)


def put(document: Json, path: Path, value: Json) -> None:
    """Sets what lies at the path, making the objects and arrays on the way."""
    node = document
    for key, after in itertools.pairwise(path):
        empty: Json = [] if isinstance(after, int) else {}
        node = _child(node, key, empty)
    _set(node, path[-1], value)


def _child(node: Json, key: str | int, empty: Json) -> Json:
    known = node.get(key) if isinstance(node, dict) else (node[0] if node else None)
    if type(known) is not type(empty):
        _set(node, key, empty)
        return empty
    return known


def _set(node: Json, key: str | int, value: Json) -> None:
    if isinstance(node, dict):
        node[str(key)] = value
    elif node:
        node[0] = value
    else:
        node.append(value)


def is_cheap(text: bytes) -> bool:
    """Whether a server has little to do for a request: it is short, and breaks the contract or asks
    for few steps. (Valid requests for thousands of steps are the business of deadlines.)"""
    if len(text) > MOST_BYTES:
        return False
    try:
        request = parse_request(text)
    except ContractError:
        return True
    except Exception:
        return True  # the server's to show
    return _calls(request, [item.steps or request.steps for item in request.segs.items])


def is_cheap_plan(text: bytes) -> bool:
    """The same for a plan, which is sent to the models behind the first."""
    try:
        plan = Plan.model_validate_json(text)
    except ValidationError:
        return True
    return _calls(plan.request, [seg.steps for seg in plan.segs if seg.crop])


def _calls(request: DetailRequest, steps: list[int]) -> bool:
    small = request.guide_size <= 256 and request.max_size <= 256
    longest = len(request.prompt) + len(request.negative)
    return (
        small
        and longest < 3000
        and sum(steps) * request.batch_size * request.cycle / request.denoise <= MOST_CALLS
    )


def changed(rng: random.Random, text: bytes) -> Json:
    """A JSON document with one to three mutations that know nothing of its schema."""
    document = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 3])):
        _change(rng, document)
    return document
