"""Descriptors of pipelines; a pipeline is one compiled checkpoint under a name."""

from pipelines.descriptor import (
    DESCRIPTOR_SUFFIX,
    EdmSchedule,
    Network,
    NoiseSchedule,
    PipelineDescriptor,
    PipelineError,
    Schedule,
    load_all,
)

__all__ = [
    "DESCRIPTOR_SUFFIX",
    "EdmSchedule",
    "Network",
    "NoiseSchedule",
    "PipelineDescriptor",
    "PipelineError",
    "Schedule",
    "load_all",
]
