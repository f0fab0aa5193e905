"""Priorities of requests; nothing here takes long to import."""

from __future__ import annotations

PRIORITY_WEIGHTS = {"low": 0.25, "normal": 1.0, "high": 4.0}
"""A requester's weight, by what its request says."""
