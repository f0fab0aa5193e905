"""The supervisor's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METRICS = {
    "segs_ready": ("gauge", "1 while the canary is answered, else 0"),
    "segs_restarts_total": ("counter", "how often tritonserver was started again"),
    "segs_reloads_total": ("counter", "how often models were loaded again"),
    "segs_canary_seconds": ("gauge", "what the last canary took"),
    "segs_canary_timestamp_seconds": ("gauge", "when it was answered"),
}
"""Type and meaning of each; those of canaries exist after the first successful one."""


def text(state: Mapping[str, Any]) -> str:
    """The page for Prometheus of a :meth:`serving.health.Health.state`."""
    canary = state["canary"] or {}
    values = {
        "segs_ready": int(state["ready"]),
        "segs_restarts_total": state["restarts"],
        "segs_reloads_total": state["reloads"],
        "segs_canary_seconds": canary.get("seconds"),
        "segs_canary_timestamp_seconds": canary.get("at"),
    }
    lines = []
    for name, (kind, meaning) in METRICS.items():
        if (value := values[name]) is not None:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"
