"""All limits of a server; docs/limits.md is generated from this file.

Imports no array library, so that a command line starts quickly. The contract has fixed bounds
beyond these limits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from segs_client.json_text import JsonLimits
from segs_client.refusals import closest_name

REFUSED = "refused"
"""INVALID_ARGUMENT with field, value and what is allowed; the same request is never accepted."""
LATER = "later"
"""UNAVAILABLE with retry_after_s; nothing of the request was started."""
WAITS = "waits"

MIN_SAMPLED_SIDE_PX = 8
"""Shortest side that the VAE can encode."""

_MIB = 1 << 20
_GIB = 1 << 30


def _limit(default: Any, bounds: str, beyond: str, least: float = 1, most: float = 1 << 53) -> Any:
    """A field: what it bounds, what happens beyond it, and its allowed range."""
    metadata = {"bounds": bounds, "beyond": beyond, "least": least, "most": most}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Limits:
    """The limits of one server; an operator may change any of them.

    Raises:
        ValueError: a limit outside its range, or of another type.
    """

    max_json_bytes: int = _limit(JsonLimits().max_bytes, "JSON of a request", REFUSED)
    max_json_containers: int = _limit(
        JsonLimits().max_containers, "lists and objects in it", REFUSED
    )
    max_json_names: int = _limit(JsonLimits().max_names, "colons in it, as of names", REFUSED)
    max_json_values: int = _limit(JsonLimits().max_values, "commas in it", REFUSED)
    max_tensor_bytes: int = _limit(
        512 * _MIB,
        "each of the tensors image, masks, seg_images and control_images, as it comes",
        REFUSED,
        most=2 * _GIB,
    )

    max_picture_pixels: int = _limit(
        64_000_000,
        "pixels of the picture, of a control image, of a mask of a prompt",
        REFUSED,
        most=178_000_000,
    )
    max_picture_side_px: int = _limit(16_384, "longest side of such", REFUSED, most=65_535)

    max_segs: int = _limit(1024, "SEGs of a request", REFUSED, most=4096)
    max_seg_passes: int = _limit(4096, "SEGs times batch_size", REFUSED)
    max_seg_pixels: int = _limit(2048 * 2048, "pixels that a SEG is sampled at", REFUSED)
    max_request_pixels: int = _limit(
        256_000_000, "the same of all SEGs of a request, in all passes", REFUSED
    )
    max_work: float = _limit(
        100_000.0,
        "work of a request in megapixel-steps: sampled pixels / 10⁶ × steps × cycle × batch_size, "
        "times half the number of a SEG's conditionings and, with c ControlNets, times 1 + c",
        REFUSED,
    )

    max_schedule_steps: int = _limit(
        200_000, "steps / denoise of a SEG: the schedule of which the last steps are taken", REFUSED
    )

    max_prompt_chars: int = _limit(
        10_000, "characters of a prompt, wildcards resolved", REFUSED, most=100_000
    )
    max_request_prompt_chars: int = _limit(
        1_000_000,
        "characters of all different prompts of a request, wildcards not resolved",
        REFUSED,
    )
    max_prompt_chunks: int = _limit(
        32, "chunks of 75 tokens of a prompt, rows of a text encoder's batch", REFUSED
    )
    max_context_chunks: int = _limit(
        64,
        "chunks that all prompts of a SEG are repeated to, the least common multiple of theirs",
        REFUSED,
    )
    max_prompt_weight: float = _limit(1000.0, "weight of a token, up or down", REFUSED)

    max_request_memory_bytes: int = _limit(
        4 * _GIB, "arrays of a request, by their declared shapes, before any is made", REFUSED
    )
    max_answer_bytes: int = _limit(
        1 * _GIB,
        "what is sent back, not compressed; gRPC carries less than 2 GiB",
        REFUSED,
        most=2 * _GIB - 64 * _MIB,
    )
    max_memory_bytes: int = _limit(
        8 * _GIB, "arrays of all requests that are sampled, by their declared shapes", LATER
    )
    max_message_bytes: int = _limit(
        4 * _GIB,
        "tensors, as they come, of all requests of a front end (segs_detailer or "
        "segs_detailer_stream), in flight and waiting",
        LATER,
    )
    max_in_flight_bytes: int = _limit(
        1 * _GIB,
        "pixels of the large pictures (over 16 MiB each) that a front end has in flight at once; "
        "one is always allowed",
        WAITS,
    )
    max_requests: int = _limit(
        2048, "requests of a front end, in flight and waiting", LATER, most=100_000
    )
    max_queue_s: float = _limit(
        600.0, "their seconds, by estimate; in the step engine too", LATER, least=1e-3
    )
    max_slowdown: float | None = _limit(
        None,
        "how many times longer than alone a request may take because of others, by estimate; "
        "null: any",
        LATER,
    )
    max_live_segs: int = _limit(
        64,
        "SEGs that are sampled at once; beyond them each request still has one",
        WAITS,
        most=100_000,
    )
    text_cache_bytes: int = _limit(256 * _MIB, "encoded prompts kept", "the oldest go", least=0)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is None and each.default is None:
                continue
            whole = each.type == "int"
            least, most = each.metadata["least"], each.metadata["most"]
            kind = int if whole else (int, float)
            if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
                number = "a whole number" if whole else "a number"
                raise ValueError(f"{each.name}: {number}, {least:g} … {most:g}, got {value!r}")
        if self.max_memory_bytes < self.max_request_memory_bytes:
            raise ValueError(
                "max_memory_bytes: at least max_request_memory_bytes, "
                f"{self.max_request_memory_bytes}, got {self.max_memory_bytes}"
            )

    @classmethod
    def from_mapping(cls, chosen: Mapping[str, object]) -> Limits:
        """The defaults, replaced by the values of ``chosen``.

        Raises:
            ValueError: an unknown name, or a value that is not allowed.
        """
        known = [each.name for each in fields(cls)]
        for name in chosen:
            if name not in known:
                closest = closest_name(name, known)
                raise ValueError(f"{name}: no such limit; closest is {closest}, see docs/limits.md")
        values: dict[str, Any] = dict(chosen)
        return cls(**values)

    @staticmethod
    def read(text: str | bytes) -> dict[str, object]:
        """Parses a JSON object of limits.

        Raises:
            ValueError: it is no JSON object.
        """
        chosen = json.loads(text)
        if not isinstance(chosen, dict):
            raise ValueError("one JSON object is expected, name → value")
        return chosen

    @property
    def json(self) -> JsonLimits:
        """The limits of a request's JSON."""
        return JsonLimits(
            self.max_json_bytes,
            self.max_json_containers,
            self.max_json_names,
            self.max_json_values,
        )


DEFAULT = Limits()
