"""Compares a built network with the checkpoint's network in torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from build_engines.errors import VerificationError
from build_engines.widen import widen
from networks import NetworkExport, ShapeCase
from pipelines.descriptor import Precision, Quantization
from pipelines.reference import (
    REFERENCE_FILE,
    DifferenceError,
    NetworkReference,
    Tolerance,
    relative_error,
    write_reference,
)
from runners.onnx_session import NamedArrays, SessionSettings, open_session

SEED = 0

InputArrays = Mapping[str, npt.NDArray[np.generic]]
OutputArrays = Sequence[npt.NDArray[np.float32]]
Run = Callable[[InputArrays], OutputArrays]
"""Runs one batch; the outputs are in the network's order."""


TOLERANCES: dict[Precision | Quantization, Tolerance] = {
    "fp32": Tolerance(1e-4, 0.999999),
    "fp16": Tolerance(5e-2, 0.999),
    "bf16": Tolerance(2e-1, 0.99),
    "int8": Tolerance(2e-1, 0.99),
    "fp8": Tolerance(2e-1, 0.99),
}
"""Of a precision, from the checkpoint in float32; of a quantisation, from the same quantised graph
in onnxruntime: a value that lies between two steps may be rounded to the other one."""


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
    network: NetworkExport,
    run: Run,
    expected: Iterable[Reference],
    precision: Precision | Quantization,
) -> float:
    """Runs the references' inputs; returns the greatest relative error.

    Raises:
        VerificationError: a result has another shape, is not finite, or differs by more than
            :data:`TOLERANCES` allow.
    """
    names = [tensor.name for tensor in network.outputs]
    errors = []
    for each in expected:
        for name, output, wanted in zip(names, run(each.inputs), each.outputs, strict=True):
            try:
                errors.append(relative_error(output, wanted, TOLERANCES[precision]))
            except DifferenceError as error:
                raise VerificationError(f"{network.role} at {each.case}: {name} {error}") from None
    return max(errors)


def in_order(network: NetworkExport, run: Callable[[NamedArrays], NamedArrays]) -> Run:
    """A session's run by names as one whose outputs are in the network's order."""
    names = [tensor.name for tensor in network.outputs]

    def ordered(inputs: InputArrays) -> OutputArrays:
        outputs = run(dict(inputs))
        return [outputs[name] for name in names]

    return ordered


def run_quantized(
    network: NetworkExport, model: Path, inputs: Iterable[Reference]
) -> list[Reference]:
    """The inputs with the outputs of the quantised ``model.onnx`` in onnxruntime, which is widened
    to float32 around its 8-bit values: onnxruntime quantises float16 values wrongly."""
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        # More optimisation moves FP8 values through operators without FP8.
        session = open_session(widen(model, Path(scratch)), settings=SessionSettings(level=-1))
        run = in_order(network, session.run)
        return [replace(each, outputs=run(each.inputs)) for each in inputs]


def write_first(
    network: NetworkExport,
    folder: Path,
    expected: Sequence[Reference],
    precision: Precision | Quantization,
) -> None:
    """Writes the first reference, that of the least shape, for the server's check at its start."""
    first = expected[0]
    names = (tensor.name for tensor in network.outputs)
    outputs = dict(zip(names, first.outputs, strict=True))
    reference = NetworkReference(first.inputs, outputs, TOLERANCES[precision])
    write_reference(folder / REFERENCE_FILE, reference)


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
