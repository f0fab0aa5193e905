"""The targets of a build, which run the networks: onnxruntime, OpenVINO, TensorRT or torch."""

from build_engines.options import TargetOptions
from build_engines.targets.base import Target

__all__ = ["Target", "open_target"]


def open_target(options: TargetOptions) -> Target:
    """The target of the options.

    Raises:
        BuildError: it is not available here; the message names what is missing.
    """
    if options.name == "tensorrt":
        from build_engines.targets.tensorrt import open_tensorrt

        return open_tensorrt(options)
    from build_engines.targets.onnx import OnnxTarget
    from build_engines.targets.torch import open_torch

    if options.name == "torch":
        return open_torch(options)
    if options.name == "openvino":
        from build_engines.targets.openvino import open_openvino

        return open_openvino(options)
    quantization = options.quantize.mode if options.quantize else None
    return OnnxTarget(options.precision or "fp32", quantization)
