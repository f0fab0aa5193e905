"""A network of a stand-in pipeline as a Triton model: waits as long as a GPU would, answers zeros.

Imported by the ``model.py`` that :mod:`benchmarks.standin` writes; in Triton's Python stub only.
"""

from __future__ import annotations

import fcntl
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from benchmarks.gpu_curve import Curve


class StandInModel:
    """Sleeps, so that the CPU is as free as beside a GPU; one network at a time, as on one GPU."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the curve from the config's parameters."""
        config = json.loads(args["model_config"])
        given = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._curve = Curve(given["role"], float(given["floor_s"]), float(given["flat_rows"]))
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]
        self._device = Path(given["device"]).open("w")  # noqa: SIM115 - held for the model's life

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request by itself, as the other networks do."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tensor = pb_utils.get_input_tensor_by_name(request, self._input)
        shape = tuple(tensor.as_numpy().shape)
        fcntl.flock(self._device, fcntl.LOCK_EX)
        try:
            time.sleep(self._curve.seconds(shape))
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)
        zeros = self._zeros(self._curve.output_shape(shape))
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, zeros)])

    @lru_cache(maxsize=64)  # noqa: B019 - one object for the process's life
    def _zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Made once, as a GPU does not take the CPU's time to make them either."""
        return np.zeros(shape, np.float32)
