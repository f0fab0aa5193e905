"""Compares a built network with the checkpoint's network in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from build_engines.errors import VerificationError
from build_engines.widen import widen
from networks import NetworkExport, ShapeCase
from pipelines.descriptor import Precision

SEED = 0

InputArrays = Mapping[str, npt.NDArray[np.generic]]
OutputArrays = Sequence[npt.NDArray[np.float32]]
Run = Callable[[InputArrays], OutputArrays]
"""Runs one batch; the outputs are in the network's order."""


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference of an export from the checkpoint in float32.

    ``error`` is the greatest difference relative to the output's greatest magnitude, ``cosine`` the
    least cosine between rows of the two.
    """

    error: float
    cosine: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(1e-4, 0.999999),
    "fp16": Tolerance(5e-2, 0.999),
    "bf16": Tolerance(2e-1, 0.99),
}


@dataclass(frozen=True)
class Reference:
    """Inputs of one shape and torch's results, in the order of the network's outputs."""

    case: ShapeCase
    inputs: InputArrays
    outputs: OutputArrays

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The inputs as torch tensors."""
        return [torch.from_numpy(array) for array in self.inputs.values()]


def references(
    network: NetworkExport, module: nn.Module, cases: Iterable[ShapeCase] | None = None
) -> list[Reference]:
    """Runs the loaded, unchanged module on the given cases, by default all of the network."""
    generator = torch.Generator().manual_seed(SEED)
    results = []
    for case in network.cases() if cases is None else cases:
        inputs = network.example(case, generator)
        arrays = {name: value.numpy() for name, value in inputs.items()}
        results.append(Reference(case, arrays, run_in_torch(module, inputs.values())))
    return results


def run_in_torch(module: nn.Module, inputs: Iterable[torch.Tensor]) -> OutputArrays:
    """A module's results on its arguments, in their order, as arrays."""
    with torch.inference_mode():
        outputs = module(*inputs)
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    return [output.cpu().numpy() for output in outputs]


def verify(
    network: NetworkExport, run: Run, expected: Iterable[Reference], precision: Precision
) -> float:
    """Runs the references' inputs; returns the greatest relative error.

    Raises:
        VerificationError: a result has another shape, is not finite, or differs by more than
            :data:`TOLERANCES` allow.
    """
    names = [tensor.name for tensor in network.outputs]
    return max(
        _difference(f"{network.role} at {each.case}: {name}", output, wanted, TOLERANCES[precision])
        for each in expected
        for name, output, wanted in zip(names, run(each.inputs), each.outputs, strict=True)
    )


@contextmanager
def onnxruntime_runner(network: NetworkExport, model: Path, precision: Precision) -> Iterator[Run]:
    """A context with ``model.onnx`` in onnxruntime on a CPU.

    onnxruntime computes float16 operators in float32, with float16 values between them. It has no
    bfloat16; the graph is widened to float32, so that weights are rounded and values are not.

    Raises:
        VerificationError: onnxruntime fails.
    """
    names = [tensor.name for tensor in network.outputs]
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
            runnable = widen(model, Path(scratch)) if precision == "bf16" else model
            session = onnxruntime.InferenceSession(
                runnable, options, providers=["CPUExecutionProvider"]
            )
            yield lambda inputs: session.run(names, dict(inputs))
    except VerificationError:
        raise
    except Exception as error:  # the only base of onnxruntime's exceptions
        raise VerificationError(
            f"{network.role}: onnxruntime cannot run the export: {error}"
        ) from error


def _difference(
    where: str,
    output: npt.NDArray[np.float32],
    expected: npt.NDArray[np.float32],
    tolerance: Tolerance,
) -> float:
    if output.shape != expected.shape:
        raise VerificationError(
            f"{where}: the export gives shape {list(output.shape)}, torch {list(expected.shape)}"
        )
    error = float(np.abs(output - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not error <= tolerance.error:  # "not": NaN fails too
        raise VerificationError(
            f"{where}: the export differs from torch by {error:.2e} of the output's greatest "
            f"magnitude; at most {tolerance.error:.0e} is allowed"
        )
    alike = cosine(output, expected)
    if not alike >= tolerance.cosine:
        raise VerificationError(
            f"{where}: the cosine between the export's rows and torch's is {alike:.5f}; at least "
            f"{tolerance.cosine} is needed"
        )
    return error


def cosine(output: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """The least cosine between the rows of two arrays ``[rows, …]``; 1 for two rows of zeros."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (output, expected))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alike = np.where(lengths > 0, (a * b).sum(1) / np.maximum(lengths, 1e-300), (a == b).all(1))
    return float(alike.min())
