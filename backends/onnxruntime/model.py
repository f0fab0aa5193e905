"""Triton's ``onnxruntime`` backend in Python: the same name, config and ``model.onnx``.

It is used with the nvidia-pytriton package, which has no native one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runners.onnx_session import OnnxSession, SessionSettings, open_session
from triton_models.network_model import ArrayModel


class TritonPythonModel(ArrayModel):
    """A network in onnxruntime."""

    def load(self, path: Path, config: dict[str, Any]) -> OnnxSession:
        return open_session(path, settings=SessionSettings.from_config(config))
