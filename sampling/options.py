"""What can be chosen about the service; imports nothing, so that a command line can offer it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServiceOptions:
    """How much is let in and held at once."""

    max_live_segs: int = 64
    """SEGs under way; beyond them each request still has one."""
    max_requests: int = 512
    """Requests at once; one more is refused."""
    max_queue_s: float = 600.0
    """Estimated device seconds of all requests at once; what is beyond is refused."""
    max_slowdown: float | None = None
    """How many times longer than alone a request may take because of others, by estimate; None:
    any."""
    text_cache_bytes: int = 256 << 20
    """Encoded prompts that are kept."""

    def __post_init__(self) -> None:
        counts = self.max_live_segs, self.max_requests
        if min(counts) < 1 or self.max_queue_s <= 0 or self.text_cache_bytes < 0:
            raise ValueError(
                "max_live_segs >= 1, max_requests >= 1, max_queue_s > 0 and text_cache_bytes >= 0 "
                f"are required, got {self}"
            )
        if self.max_slowdown is not None and self.max_slowdown < 1:
            raise ValueError(f"max_slowdown >= 1 is required, got {self.max_slowdown}")
