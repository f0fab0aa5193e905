"""TensorRT: an ONNX graph becomes a plan, through its Python package."""

from build_engines.tensorrt.engine_builder import EngineBuilder
from build_engines.tensorrt.find import find_builder
from build_engines.tensorrt.job import Job, Profiles

__all__ = ["EngineBuilder", "Job", "Profiles", "find_builder"]
