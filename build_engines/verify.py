"""Compares an exported network, run by onnxruntime, with the checkpoint's own in torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from build_engines.errors import VerificationError
from build_engines.networks import Case, NetworkExport

TOLERANCE = 1e-4
"""Greatest difference allowed, relative to the output's greatest magnitude."""
SEED = 0


@dataclass(frozen=True)
class Reference:
    """Inputs of one shape and torch's results, in the order of the network's outputs."""

    case: Case
    inputs: Mapping[str, npt.NDArray[np.generic]]
    outputs: Sequence[npt.NDArray[np.float32]]


def references(network: NetworkExport, module: nn.Module) -> list[Reference]:
    """Runs the loaded, unchanged module on every case of the network."""
    generator = torch.Generator().manual_seed(SEED)
    results = []
    for case in network.cases():
        inputs = network.example(case, generator)
        with torch.inference_mode():
            outputs = module(*inputs.values())
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        results.append(Reference(case, arrays, [output.numpy() for output in outputs]))
    return results


def verify(network: NetworkExport, model: Path, expected: Iterable[Reference]) -> float:
    """Runs ``model.onnx`` on the references' inputs; returns the greatest relative error.

    Raises:
        VerificationError: a result has another shape, is not finite, or differs by more than
            :data:`TOLERANCE`.
    """
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return max(_error(network, session, reference) for reference in expected)
    except VerificationError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no other base
        raise VerificationError(
            f"{network.role}: onnxruntime cannot run the export: {error}"
        ) from error


def _error(
    network: NetworkExport, session: onnxruntime.InferenceSession, reference: Reference
) -> float:
    names = [tensor.name for tensor in network.outputs]
    outputs = session.run(names, dict(reference.inputs))
    pairs = zip(names, outputs, reference.outputs, strict=True)
    return max(
        _difference(f"{network.role} at {reference.case}: {name}", output, expected)
        for name, output, expected in pairs
    )


def _difference(
    where: str, output: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> float:
    if output.shape != expected.shape:
        raise VerificationError(
            f"{where}: the export gives shape {list(output.shape)}, torch {list(expected.shape)}"
        )
    error = float(np.abs(output - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not error <= TOLERANCE:  # not: NaN fails too
        raise VerificationError(
            f"{where}: the export differs from torch by {error:.2e} of the output's greatest "
            f"magnitude; at most {TOLERANCE:.0e} is allowed"
        )
    return error
