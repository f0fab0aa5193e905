"""The ``config.pbtxt`` of a network's Triton model, printed from Triton's own message type."""

from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engines.networks import NetworkExport, Tensor


def model_config(network: NetworkExport, pipeline: str) -> str:
    """The configuration's text for the ONNX target.

    A zero-filled warm-up of the profile's least shape makes the first request as fast as the
    next; one instance on the CPU, as its threads already use all cores.
    """
    config = model_config_pb2.ModelConfig(
        name=network.model_name(pipeline),
        backend="onnxruntime",
        max_batch_size=network.max_batch,
    )
    for tensor in network.inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor))
    for tensor in network.outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor))
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
    warmup = config.model_warmup.add(name="least_shape", batch_size=1)
    least = {axis.name: axis.min for axis in network.axes}
    for tensor in network.inputs:
        entry = warmup.inputs[tensor.name]
        entry.data_type = _data_type(tensor)
        entry.dims.extend(least[dim] if isinstance(dim, str) else dim for dim in tensor.dims)
        entry.zero_data = True
    return str(text_format.MessageToString(config))


def _dims(tensor: Tensor) -> list[int]:
    return [-1 if isinstance(dim, str) else dim for dim in tensor.dims]


def _data_type(tensor: Tensor) -> int:
    return int(model_config_pb2.DataType.Value(f"TYPE_{tensor.dtype}"))
