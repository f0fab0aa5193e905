"""Compares what the networks give here with the references that were built beside them.

A compiled engine may load and run, and yet compute something else: a build on a machine that could
not run it has not noticed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pipelines.descriptor import PipelineError, load_all
from pipelines.reference import (
    DifferenceError,
    NetworkReference,
    read_reference,
    reference_of,
    relative_error,
)
from serving.connection import Connection
from serving.engines import build_command
from serving.errors import CanaryError, RepositoryError, WrongResultsError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReferenceCheck:
    """A network that has a reference."""

    pipeline: str
    model: str
    """Its Triton model."""
    reference: NetworkReference
    remedy: str
    """The command that builds it again."""

    def __str__(self) -> str:
        return f"pipeline {self.pipeline!r}: {self.model}"


def reference_checks(repositories: Iterable[Path]) -> tuple[ReferenceCheck, ...]:
    """The networks with a reference.

    Raises:
        RepositoryError: a reference cannot be read.
    """
    return tuple(
        ReferenceCheck(name, network.model, _read(path), build_command(descriptor, folder))
        for name, (descriptor, folder) in load_all(repositories).items()
        for network in descriptor.all_networks
        if (path := reference_of(network, folder)) is not None
    )


def run_check(server: Connection, check: ReferenceCheck, timeout_s: float) -> float:
    """Sends the reference's inputs to the network; returns the greatest relative error.

    Raises:
        WrongResultsError: its outputs differ by more than allowed; the message has the remedy.
        CanaryError: the network does not answer.
    """
    outputs = _infer(server, check, timeout_s)
    errors = []
    for name, expected in check.reference.outputs.items():
        try:
            errors.append(relative_error(outputs[name], expected, check.reference.tolerance))
        except DifferenceError as error:
            raise WrongResultsError(
                f"{check} computes something else on this machine than its checkpoint: {name} "
                f"{error}. Build it again on this machine (without --refit, if that was given): "
                f"{check.remedy}"
            ) from error
    return max(errors)


def _infer(server: Connection, check: ReferenceCheck, timeout_s: float) -> dict[str, Any]:
    inputs = []
    for name, array in check.reference.inputs.items():
        inputs.append(InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        inputs[-1].set_data_from_numpy(array)
    names = list(check.reference.outputs)
    with server.open() as client:
        try:
            result = client.infer(
                check.model,
                inputs,
                outputs=[InferRequestedOutput(name) for name in names],
                headers=dict(server.headers),
                parameters=dict(server.parameters),
                client_timeout=timeout_s,
            )
        except InferenceServerException as error:
            raise CanaryError(f"{check}: [{error.status()}] {error.message()}") from error
    return {name: result.as_numpy(name) for name in names}


def _read(path: Path) -> NetworkReference:
    try:
        return read_reference(path)
    except PipelineError as error:
        raise RepositoryError(f"{error}; build the pipeline again") from error
