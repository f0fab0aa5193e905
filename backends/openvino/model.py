"""A Triton backend named ``openvino``, with ``model.onnx`` and the native one's parameters.

It is used in place of a native backend of the same name, whose bfloat16 includes the timesteps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runners.openvino_session import OpenvinoSession, OpenvinoSettings, open_openvino_session
from triton_models.network_model import ArrayModel


class TritonPythonModel(ArrayModel):
    """A network in OpenVINO."""

    def load(self, path: Path, config: dict[str, Any]) -> OpenvinoSession:
        return open_openvino_session(path, OpenvinoSettings.from_config(config))
