"""TensorRT: an ONNX graph becomes a plan, through its Python API or its program trtexec."""

from build_engines.tensorrt.base import Builder, Job, Profiles
from build_engines.tensorrt.find import find_builder

__all__ = ["Builder", "Job", "Profiles", "find_builder"]
