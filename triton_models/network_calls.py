"""The engine's networks as Triton models, called from within the server (BLS)."""

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
"""How long a batch waits for a dead process's successor; a network takes its time to load."""
_PAUSE_S = 0.2
_RAN_S = 4.0
"""Triton answers for a process that is missing after a second, and each call in line before takes
as long; a call that took longer had begun."""
_TRIES = 3
"""A batch that takes its network's process down with it does so no more often."""


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
        """One batch; again, if the model's process dies meanwhile and another takes its place.

        Raises:
            LostError: there was no other in time.
            NetworkError: with the model's own message.
            StoppingError: the server is being stopped.
        """
        deaths, until_s = 0, math.inf
        while deaths < _TRIES and time.monotonic() < until_s:
            begun_s = time.monotonic()
            outputs = await self._run_once(network, inputs)
            if outputs is not None:
                return outputs
            ended_s = time.monotonic()
            if ended_s - begun_s > _RAN_S:  # it had begun: another death, however long it took
                deaths, until_s = deaths + 1, math.inf
            until_s = min(until_s, ended_s + _NEW_PROCESS_S)
            await asyncio.sleep(_PAUSE_S)
        raise LostError

    async def _run_once(self, network: str, inputs: Tensors) -> Tensors | None:
        """One batch; None if the model's process is dead."""
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
