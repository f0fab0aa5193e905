"""A Triton backend named ``openvino``, with ``model.onnx`` and the native one's parameters.

It is used in place of a native backend of the same name, whose bfloat16 includes the timesteps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runners.cores import NETWORK_NICENESS, lower_priority
from runners.openvino_session import OpenvinoSession, OpenvinoSettings, open_openvino_session
from triton_models import pb_utils
from triton_models.network_model import NetworkModel


class TritonPythonModel(NetworkModel):
    """A network in OpenVINO, on numpy arrays."""

    def open(self, folder: Path, config: dict[str, Any], args: dict[str, str]) -> OpenvinoSession:
        lower_priority(NETWORK_NICENESS)
        path = folder / (config.get("default_model_filename") or "model.onnx")
        return open_openvino_session(path, OpenvinoSettings.from_config(config))

    def read(self, tensor: Any) -> Any:
        return tensor.as_numpy()

    def write(self, name: str, value: Any) -> Any:
        return pb_utils.Tensor(name, np.ascontiguousarray(value))
