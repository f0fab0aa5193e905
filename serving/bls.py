"""The engine's networks as Triton models, called from within the server (BLS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack

from sampling.program import Tensors


class NetworkError(Exception):
    """A network's call failed."""


class TritonNetworks:
    """Runs batches on Triton models of this server; tensors pass by DLPack, without copies on
    a GPU.

    Args:
        outputs: names of each model's outputs.
    """

    def __init__(self, outputs: Mapping[str, Sequence[str]]) -> None:
        self._outputs = outputs

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        """One batch.

        Raises:
            NetworkError: with the model's own message.
        """
        request = pb_utils.InferenceRequest(
            model_name=network,
            requested_output_names=list(self._outputs[network]),
            inputs=[
                pb_utils.Tensor.from_dlpack(name, tensor.contiguous())
                for name, tensor in inputs.items()
            ],
        )
        response = await request.async_exec()
        if response.has_error():
            raise NetworkError(f"{network}: {response.error().message()}")
        return {
            tensor.name(): from_dlpack(tensor.to_dlpack()) for tensor in response.output_tensors()
        }
