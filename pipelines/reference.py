"""A network's reference: inputs, their right outputs, and how far a runtime may be from them.

build_engines writes it beside a model whose file is compiled for one machine; the supervisor sends
its inputs to the model before the server is ready. Nothing here imports torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipelines.descriptor import Network, PipelineError

REFERENCE_FILE = "reference.npz"
"""In the folder of the model's version."""
_INPUT, _OUTPUT, _TOLERANCE = "input:", "output:", "tolerance"

Arrays = Mapping[str, npt.NDArray[np.generic]]


class DifferenceError(Exception):
    """Outputs differ from the right ones by more than allowed."""


@dataclass(frozen=True)
class Tolerance:
    """Allowed difference of a network's outputs from the right ones.

    ``error`` is the greatest difference relative to the output's greatest magnitude, ``cosine`` the
    least cosine between rows of the two.
    """

    error: float
    cosine: float


@dataclass(frozen=True)
class NetworkReference:
    """One batch: inputs and right outputs by name, float32 or int32, and the tolerance."""

    inputs: Arrays
    outputs: Mapping[str, npt.NDArray[np.float32]]
    tolerance: Tolerance


def write_reference(path: Path, reference: NetworkReference) -> None:
    """Writes the file; the same reference gives the same bytes."""
    np.savez(
        path,
        **{f"{_INPUT}{name}": array for name, array in reference.inputs.items()},
        **{f"{_OUTPUT}{name}": array for name, array in reference.outputs.items()},
        **{_TOLERANCE: np.array(astuple(reference.tolerance))},
    )


def read_reference(path: Path) -> NetworkReference:
    """Reads the file.

    Raises:
        PipelineError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        error, cosine = arrays.pop(_TOLERANCE).tolist()
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as problem:
        raise PipelineError(f"{path}: not a network's reference: {problem}") from problem
    return NetworkReference(
        inputs=_named(arrays, _INPUT),
        outputs=_named(arrays, _OUTPUT),
        tolerance=Tolerance(error, cosine),
    )


def reference_of(network: Network, folder: Path) -> Path | None:
    """The reference among the network's files; ``folder`` is the descriptor's."""
    found = (folder / file for file in network.files if Path(file).name == REFERENCE_FILE)
    return next(found, None)


def relative_error(
    output: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], tolerance: Tolerance
) -> float:
    """The greatest difference, relative to the greatest magnitude of ``expected`` [rows, …].

    Raises:
        DifferenceError: the shape is another, a value is not finite, or the tolerance is exceeded.
    """
    if output.shape != expected.shape:
        raise DifferenceError(f"gives shape {list(output.shape)}, torch {list(expected.shape)}")
    error = float(np.abs(output - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not error <= tolerance.error:  # "not": NaN fails too
        raise DifferenceError(
            f"differs from torch by {error:.2e} of the output's greatest magnitude; at most "
            f"{tolerance.error:.0e} is allowed"
        )
    alike = cosine(output, expected)
    if not alike >= tolerance.cosine:
        raise DifferenceError(
            f"has rows whose cosine with torch's is {alike:.5f}; at least {tolerance.cosine} is "
            "needed"
        )
    return error


def cosine(output: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """The least cosine between the rows of two arrays ``[rows, …]``; 1 for two rows of zeros."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (output, expected))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    alike = np.where(lengths > 0, (a * b).sum(1) / np.maximum(lengths, 1e-300), (a == b).all(1))
    return float(alike.min())


def _named(
    arrays: Mapping[str, npt.NDArray[np.float32]], prefix: str
) -> dict[str, npt.NDArray[np.float32]]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
