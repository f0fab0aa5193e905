"""Quantises one graph with NVIDIA ModelOpt, in an interpreter that has it.

    python -I worker.py JOB.json

A separate program, because ModelOpt needs other versions of onnx and numpy than the rest of the
project. JOB.json has ``model`` and ``output`` (paths of ONNX files), ``mode`` (int8 or fp8),
``rows`` (a folder of ``.npz`` files, one input of the network each) and ``exclude`` (regular
expressions of node names).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization.calibrate import CalibrationDataReader

DATA_SUFFIX = ".data"


class Rows(CalibrationDataReader):  # type: ignore[misc]  # a class of an untyped library
    """Reads the inputs one by one."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.npz"))
        self._left: Iterator[Path] = iter(self._paths)

    def get_next(self) -> dict[str, Any] | None:
        """The next input by name; None at the end."""
        path = next(self._left, None)
        return None if path is None else _read(path)

    def get_first(self) -> dict[str, Any]:
        """The first input, without moving the position."""
        return _read(self._paths[0])

    def rewind(self) -> None:
        """Moves to the first input."""
        self._left = iter(self._paths)


def _read(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as row:
        return dict(row)


def main(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text())
    output = Path(job["output"])
    quantize(
        job["model"],
        quantize_mode=job["mode"],
        calibration_data_reader=Rows(Path(job["rows"])),
        calibration_method="max",
        calibration_eps=["cpu"],
        nodes_to_exclude=list(job["exclude"]),
        # Attention's products keep the network's precision.
        disable_mha_qdq=True,
        # Anything else would convert the graph's precision.
        high_precision_dtype="fp32",
        use_external_data_format=True,
        output_path=str(output),
    )
    # ModelOpt chooses the name of the weights' file; save it under the model's name.
    model = onnx.load(output)
    for path in output.parent.glob(f"{output.name}?*"):
        path.unlink()
    onnx.save(model, output, save_as_external_data=True, location=output.name + DATA_SUFFIX)


if __name__ == "__main__":
    main(sys.argv[1])
