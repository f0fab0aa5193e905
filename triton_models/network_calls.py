"""Calls of the networks' Triton models from the step engine (BLS)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence

from torch.utils.dlpack import from_dlpack

from request_plan.refusals import LostError, StoppingError
from sampling.program import Tensors
from segs_client.triton_messages import process_ended, server_stopping
from triton_models import pb_utils
from triton_models.internal_token import internal_parameters

log = logging.getLogger(__name__)

_NEW_PROCESS_S = 60.0
"""Limit of a batch's wait for the replacement of a dead process, which has to load the network."""
_PAUSE_S = 0.2
_RAN_S = 4.0
"""A longer call had reached its process: for a missing process Triton answers after a second, and
so for each call queued before."""
_TRIES = 3
"""A batch is not repeated after this many deaths of its network's process."""


class NetworkError(Exception):
    """A network's call failed."""


class TritonNetworks:
    """Runs batches on Triton models of this server; tensors are passed by DLPack, without copies on
    a GPU.

    Args:
        outputs: names of each model's outputs.
    """

    def __init__(self, outputs: Mapping[str, Sequence[str]]) -> None:
        self._outputs = outputs

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        """Runs a batch, and again if the model's process dies and is replaced.

        Raises:
            LostError: the process was not replaced in time.
            NetworkError: with the model's message.
            StoppingError: the server is being stopped.
        """
        deaths, until_s = 0, math.inf
        while deaths < _TRIES and time.monotonic() < until_s:
            begun_s = time.monotonic()
            outputs = await self._run_once(network, inputs)
            if outputs is not None:
                return outputs
            ended_s = time.monotonic()
            if ended_s - begun_s > _RAN_S:  # it had reached the process
                deaths, until_s = deaths + 1, math.inf
            until_s = min(until_s, ended_s + _NEW_PROCESS_S)
            await asyncio.sleep(_PAUSE_S)
        raise LostError

    async def _run_once(self, network: str, inputs: Tensors) -> Tensors | None:
        """Runs a batch; None if the model's process is dead."""
        request = pb_utils.InferenceRequest(
            model_name=network,
            requested_output_names=list(self._outputs[network]),
            inputs=[
                pb_utils.Tensor.from_dlpack(name, tensor.contiguous())
                for name, tensor in inputs.items()
            ],
            parameters=internal_parameters(),
        )
        response = await request.async_exec()
        if response.has_error():
            message = response.error().message()
            if process_ended(message):
                log.warning("%s: %s", network, message)
                return None
            if server_stopping(message):
                raise StoppingError
            raise NetworkError(f"{network}: {message}")
        return {
            tensor.name(): from_dlpack(tensor.to_dlpack()) for tensor in response.output_tensors()
        }
