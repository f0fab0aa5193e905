"""Triton's ``onnxruntime`` backend in Python: the same name, config and ``model.onnx``.

It is used with the nvidia-pytriton package, which has no native one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runners.cores import NETWORK_NICENESS, lower_priority
from runners.onnx_session import OnnxSession, SessionSettings, open_session
from triton_models import pb_utils
from triton_models.network_model import NetworkModel


class TritonPythonModel(NetworkModel):
    """A network in onnxruntime, on numpy arrays."""

    def open(self, folder: Path, config: dict[str, Any], args: dict[str, str]) -> OnnxSession:
        lower_priority(NETWORK_NICENESS)
        path = folder / (config.get("default_model_filename") or "model.onnx")
        return open_session(path, settings=SessionSettings.from_config(config))

    def read(self, tensor: Any) -> Any:
        return tensor.as_numpy()

    def write(self, name: str, value: Any) -> Any:
        return pb_utils.Tensor(name, np.ascontiguousarray(value))
