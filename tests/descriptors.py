"""Descriptors of pipelines that were never built."""

from __future__ import annotations

from typing import Any

from pipelines.descriptor import PipelineDescriptor


def bare_pipeline(**fields: Any) -> PipelineDescriptor:
    """A pipeline ``base`` of the family SD1 without networks, but for these fields."""
    bare = {
        "name": "base",
        "family": "sd1",
        "target": "onnx",
        "prediction": "epsilon",
        "latent_scale": 0.18215,
        "context_dim": 768,
        "text_encoders": (),
        "networks": {},
        "source": {},
        "built_with": {},
    }
    return PipelineDescriptor(**{**bare, **fields})
