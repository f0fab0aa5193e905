"""Triton's ``onnxruntime`` backend in Python: the same name, config and ``model.onnx``.

The nvidia-pytriton package brings no native one. Where Triton does, this file is not used.
"""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from serving.heart import start_beating
from serving.onnx_session import SessionSettings, open_session
from serving.stub_logging import configure_logging
from serving.tensor_rules import InputRules, TensorError

log = logging.getLogger("onnxruntime")


class TritonPythonModel:
    """One network of a pipeline."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the network of this version with the config's parameters."""
        configure_logging()
        start_beating(args["model_instance_name"])
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._name = args["model_name"]
        self._session = open_session(
            folder / (config.get("default_model_filename") or "model.onnx"),
            settings=SessionSettings.from_config(config),
        )
        self._rules = InputRules.from_config(config)
        self._outputs = [output["name"] for output in config["output"]]
        missing = set(self._outputs) - set(self._session.output_names)
        missing |= self._rules.names ^ set(self._session.input_names)
        if missing:
            raise ValueError(f"config and network disagree on tensors {sorted(missing)}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request on its own: merging is the caller's work, who knows the shapes."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            self._rules.check(arrays)
            results = self._session.run(arrays)
        except TensorError as error:
            return _refusal(f"{self._name}: {error}", pb_utils.TritonError.INVALID_ARG)
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("%s failed, error id %s", self._name, error_id)
            text = f"{self._name}: internal error {error_id}"
            return _refusal(text, pb_utils.TritonError.INTERNAL)
        asked = set(request.requested_output_names())
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.ascontiguousarray(results[name]))
                for name in self._outputs
                if name in asked
            ]
        )


def _refusal(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
