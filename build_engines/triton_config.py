"""The ``config.pbtxt`` of each Triton model, printed from Triton's message type."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from build_engines.targets import Target
from networks import ControlNet, NetworkExport, TensorSpec, Unet

CONTROL_SAMPLE = "control_sample"
"""The ensemble's input of the ControlNet's latent, if the UNet has further channels."""


def model_config(network: NetworkExport, pipeline: str, target: Target) -> str:
    """The configuration's text.

    A zero-filled warm-up of a small shape makes the first request as fast as the next.
    One instance is enough: its threads or kernels use the whole device.
    """
    config = model_config_pb2.ModelConfig(
        name=network.model_name(pipeline),
        max_batch_size=network.limits(target.memory_gb).max_batch,
    )
    for tensor in network.inputs:
        config.input.add(name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor))
    for tensor in network.outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor))
    target.configure(config, network)
    warmup = config.model_warmup.add(name="small_shape", batch_size=1)
    sizes = network.warm_up_sizes
    for tensor in network.inputs:
        entry = warmup.inputs[tensor.name]
        entry.data_type = _data_type(tensor)
        entry.dims.extend(sizes[dim] if isinstance(dim, str) else dim for dim in tensor.dims)
        entry.zero_data = True
    return str(text_format.MessageToString(config))


def ensemble_name(unet: Unet, controlnet: ControlNet, pipeline: str) -> str:
    """The Triton model that runs a ControlNet and then the UNet."""
    return f"{unet.model_name(pipeline)}_{controlnet.name}"


def ensemble_config(unet: Unet, controlnet: ControlNet, pipeline: str, target: Target) -> str:
    """The configuration's text of a ControlNet followed by the UNet.

    It has the inputs of both and the output of the UNet; the residuals stay in the server.
    """
    config = model_config_pb2.ModelConfig(
        name=ensemble_name(unet, controlnet, pipeline),
        platform="ensemble",
        max_batch_size=min(each.limits(target.memory_gb).max_batch for each in (unet, controlnet)),
    )
    control = {tensor.name: tensor.name for tensor in controlnet.inputs}
    control_inputs = controlnet.inputs
    if unet.inputs[0] != controlnet.inputs[0]:
        control["sample"] = CONTROL_SAMPLE
        sample = replace(controlnet.inputs[0], name=CONTROL_SAMPLE)
        control_inputs = (sample, *controlnet.inputs[1:])
    residuals = {tensor.name for tensor in controlnet.outputs}
    inputs = {tensor.name: tensor for tensor in (*unet.inputs, *control_inputs)}
    for name, tensor in inputs.items():
        if name not in residuals:
            config.input.add(name=name, data_type=_data_type(tensor), dims=_dims(tensor))
    for tensor in unet.outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor))
    steps = (
        (controlnet, control),
        (unet, {tensor.name: tensor.name for tensor in unet.inputs}),
    )
    for network, input_map in steps:
        step = config.ensemble_scheduling.step.add(
            model_name=network.model_name(pipeline), model_version=-1
        )
        step.input_map.update(input_map)
        step.output_map.update({tensor.name: tensor.name for tensor in network.outputs})
    return str(text_format.MessageToString(config))


def _dims(tensor: TensorSpec) -> list[int]:
    return [-1 if isinstance(dim, str) else dim for dim in tensor.dims]


def _data_type(tensor: TensorSpec) -> int:
    return int(model_config_pb2.DataType.Value(f"TYPE_{tensor.dtype}"))
