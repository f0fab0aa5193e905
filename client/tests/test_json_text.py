"""JSON that means harm, or nothing sensible, is refused in no time and in the contract's words."""

from __future__ import annotations

import pytest

from segs_client.contract import ContractError, parse_request
from segs_client.json_text import MAX_DEPTH, JsonLimits
from tests.cpu import is_cheap

LIMIT = 20
LIMITS = JsonLimits()


def inside(value: bytes, name: str = "prompt") -> bytes:
    return b'{"pipeline": "base", "%s": %s}' % (name.encode(), value)


def listed(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


def members(count: int) -> bytes:
    return b",".join(b'"%x": 0' % index for index in range(count))


def nested(levels: int) -> bytes:
    return inside(b"[" * (levels - 1) + b"]" * (levels - 1))


_ITEM = b'{"bbox": [0, 0, 8, 8], %s}'
_SIGMAS = b'{"name": "sigmas", "sigmas": %s}'

HARM: dict[str, tuple[bytes, str]] = {
    "too long": (b" " * (LIMITS.max_bytes + 1), "request: too long: 4194305 bytes; allowed: at"),
    "as long as may be": (b" " * LIMITS.max_bytes, "request: not valid JSON"),
    "lists": (inside(listed(b"[]", 50_000)), "too many lists and objects (got 50002)"),
    "objects": (inside(listed(b"{}", 50_000)), "too many lists and objects"),
    "lists, as many as may be": (inside(listed(b"[]", 49_998)), "prompt: wrong type"),
    "values": (inside(listed(b"0", 200_001)), "request: too many commas (got 200001)"),
    "values, as many as may be": (inside(listed(b"0", 199_999)), "prompt: wrong type"),
    "names": (b"{" + members(50_001) + b"}", "request: too many colons (got 50001)"),
    "unknown names": (b"{" + members(50_000) + b"}", "request: too many mistakes (got 50001)"),
    "unknown names in each SEG": (
        inside(b'{"items": %s}' % listed(_ITEM % members(40), 1024), "segs"),
        "segs.items.0.0: unknown field",
    ),
    "SEGs of nothing": (
        inside(b'{"items": %s}' % listed(b"0", 199_000), "segs"), "segs.items.0: wrong type"
    ),
    "boxes of many sides": (
        inside(b'{"items": [{"bbox": %s}]}' % listed(b'""', 199_000), "segs"),
        "segs.items.0.bbox: too many items",
    ),
    "ControlNets of nothing": (inside(listed(b"0", 199_000), "controlnets"), "controlnets.0: "),
    "ControlNets of nothing of a SEG": (
        inside(b'{"items": [%s]}' % (_ITEM % (b'"controlnets": ' + listed(b"0", 199_000))), "segs"),
        "segs.items.0.controlnets.0: wrong type",
    ),
    "prompts of nothing": (inside(listed(b"0", 199_000), "negatives"), "negatives.0: wrong type"),
    "wildcards of nothing": (
        inside(b'{"a": %s}' % listed(b"0", 199_000), "wildcards"), "wildcards.a.0: wrong type"
    ),
    "many wildcards of nothing": (
        inside(b"{" + members(9_999) + b"}", "wildcards"), "wildcards.0: wrong type"
    ),
    "more wildcards of nothing": (
        inside(b"{" + members(40_000) + b"}", "wildcards"), "too many mistakes"
    ),
    "noise levels of nothing": (
        inside(_SIGMAS % listed(b'""', 199_000), "scheduler_func"),
        "scheduler_func.sigmas.0: wrong type",
    ),
    "noise levels that rise": (
        inside(_SIGMAS % listed(b"0", 10_001), "scheduler_func"), "no schedule"
    ),
    "an unknown name of megabytes": (
        b'{"pipeline": "base", "%s": 0}' % (b"a" * 4_000_000), "unknown field"
    ),
    "a text of megabytes": (inside(b'"%s"' % (b"a" * 4_000_000), "steps"), "steps: wrong type"),
    "digits": (inside(b"1" + b"0" * 5_000, "seed"), "not valid JSON: number out of range"),
    "digits without end": (inside(b"1" * 4_000_000, "seed"), "number out of range"),
    "digits in a text": (inside(b'"%s"' % (b"1" * 5_000), "seed"), "seed: "),
    "an exponent": (inside(b"1e999", "cfg"), "cfg: not a finite number"),
    "an integer beyond floats": (inside(b"1" + b"0" * 400, "cfg"), "cfg: "),
    "a long integer": (
        inside(b'{"items": [%s]}' % (_ITEM % b'"mask": {"offset": 1%s}' % (b"0" * 4000)), "segs"),
        "segs.items.0.mask.offset: too large",
    ),
    "too deep": (nested(MAX_DEPTH + 2), "not valid JSON: recursion limit exceeded"),
    "as deep as may be": (nested(MAX_DEPTH), "prompt: wrong type"),
    "much too deep": (b"[" * 50_000, "not valid JSON: recursion limit exceeded"),
    "much too deep, of objects": (b'{"a":' * 50_000, "not valid JSON: recursion limit exceeded"),
    "NaN": (inside(b"NaN", "cfg"), "cfg: not a finite number (got NaN)"),
    "infinity": (inside(b"-Infinity", "cfg"), "cfg: not a finite number"),
    "a name twice": (b'{"pipeline": "a", "steps": 2, "steps": 3}', "a name twice in one object"),
    "a name twice, further in": (
        inside(b'{"feather": 1, "feather": 1}', "paste"), "twice in one object (got 'feather')"
    ),
    "a name twice, one escaped": (
        b'{"pipeline": "a", "steps": 2, "st\\u0065ps": 3}', "twice in one object (got 'steps')"
    ),
    "a lone surrogate": (inside(b'"\\ud800"'), "request: not valid JSON"),
    "a lone surrogate, as bytes": (inside(b'"\xed\xa0\x80"'), "request: not valid JSON"),
    "a lone trailing surrogate": (inside(b'"\\udc00"'), "request: not valid JSON"),
    "UTF-8 that is none": (inside(b'"\xff"'), "request: not valid JSON"),
    "overlong UTF-8": (inside(b'"\xc0\xaf"'), "request: not valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + inside(b'""'), "request: not valid JSON"),
    "UTF-16": (inside(b'""').decode().encode("utf-16"), "request: not valid JSON"),
    "a zero byte": (inside(b'""') + b"\0", "request: not valid JSON"),
    "a raw newline in a text": (inside(b'"\n"'), "request: not valid JSON: control character"),
    "two values": (inside(b'""') * 2, "request: not valid JSON: trailing characters"),
    "a comma too many": (b'{"pipeline": "base",}', "request: not valid JSON: trailing comma"),
    "a comment": (b'{"pipeline": "base" /* ! */}', "request: not valid JSON"),
    "quotes that are none": (b"{'pipeline': 'base'}", "request: not valid JSON"),
    "nothing": (b"", "request: not valid JSON"),
    "null": (b"null", "request: wrong type (got null)"),
}  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_harmful_json_is_refused_at_once(name: str) -> None:
    text, words = HARM[name]

    def refused() -> None:
        with pytest.raises(ContractError) as refusal:
            parse_request(text)
        assert words in str(refusal.value)
        assert refusal.value.detail.field
        assert refusal.value.detail.allowed
        assert len(refusal.value.detail.to_status_message().encode()) < 8192

    assert is_cheap(refused, LIMIT)


def test_a_lone_surrogate_in_a_text_of_ours_is_refused() -> None:
    with pytest.raises(ContractError, match="not valid JSON"):
        parse_request('{"pipeline": "base", "prompt": "\ud800"}')


def test_the_limits_can_be_others() -> None:
    with pytest.raises(ContractError, match="at most 10 bytes"):
        parse_request(inside(b'""'), JsonLimits(max_bytes=10))
    assert parse_request(inside(b'"a name: \\"steps\\", twice"')).prompt == 'a name: "steps", twice'
