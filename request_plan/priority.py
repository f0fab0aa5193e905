"""Priorities of requests; imports nothing slow."""

from __future__ import annotations

PRIORITY_WEIGHTS = {"low": 0.25, "normal": 1.0, "high": 4.0}
"""A requester's weight by its request's priority."""
