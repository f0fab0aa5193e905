"""The base of the networks' Python-based backends: checks, responses and errors."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runners.cores import NETWORK_NICENESS, lower_priority
from runners.tensor_rules import InputRules, TensorError
from sampling.faults import incident_message, open_incident
from segs_client.contract import ContractError
from triton_models import pb_utils
from triton_models.internal_token import check_internal, count_warm_up
from triton_models.state import Heartbeat
from triton_models.stub_logging import configure_logging


class NetworkSession(Protocol):
    """A loaded network with tensors by name, of its backend's kind."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, inputs: Any) -> Mapping[str, Any]: ...


class NetworkModel(ABC):
    """One network of a pipeline as a Triton model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the network of this version with the config's parameters.

        Raises:
            ValueError: config and network have different tensors.
        """
        configure_logging()
        Heartbeat(args["model_instance_name"]).start_thread()
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        folder = Path(args["model_repository"]) / args["model_version"]
        self._session = self.open(folder, config, args)
        self._rules = InputRules.from_config(config)
        self._warm_ups = count_warm_up(config)
        self._outputs = [output["name"] for output in config["output"]]
        missing = set(self._outputs) - set(self._session.output_names)
        missing |= self._rules.names ^ set(self._session.input_names)
        if missing:
            raise ValueError(f"config and network disagree on tensors {sorted(missing)}")

    @abstractmethod
    def open(self, folder: Path, config: dict[str, Any], args: dict[str, str]) -> NetworkSession:
        """Loads the network from the folder of its version."""

    @abstractmethod
    def read(self, tensor: Any) -> Any:
        """Converts Triton's tensor to the session's."""

    @abstractmethod
    def write(self, name: str, value: Any) -> Any:
        """Converts the session's result to Triton's tensor."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs each request separately: the caller has merged calls already."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            self._admit(request)
            inputs = {tensor.name(): self.read(tensor) for tensor in request.inputs()}
            self._rules.check(inputs)
            results = self._session.run(inputs)
            requested = set(request.requested_output_names())
            return pb_utils.InferenceResponse(
                [self.write(name, results[name]) for name in self._outputs if name in requested]
            )
        except ContractError as error:
            return _refusal(error.detail.to_status_message(), pb_utils.TritonError.INVALID_ARG)
        except TensorError as error:
            return _refusal(f"{self._name}: {error}", pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            incident = open_incident(error, request.request_id(), f", {self._name}")
            text = f"{self._name}: {incident_message(incident)}"
            return _refusal(text, pb_utils.TritonError.INTERNAL)

    def _admit(self, request: Any) -> None:
        if self._warm_ups > 0:  # the first requests are Triton's own
            self._warm_ups -= 1
        else:
            check_internal(request.parameters())


class ArrayModel(NetworkModel):
    """A network of ``model.onnx`` on the CPU, on numpy arrays."""

    def open(self, folder: Path, config: dict[str, Any], args: dict[str, str]) -> NetworkSession:
        lower_priority(NETWORK_NICENESS)
        return self.load(folder / (config.get("default_model_filename") or "model.onnx"), config)

    @abstractmethod
    def load(self, path: Path, config: dict[str, Any]) -> NetworkSession:
        """Loads the file with the config's parameters."""

    def read(self, tensor: Any) -> Any:
        return tensor.as_numpy()

    def write(self, name: str, value: Any) -> Any:
        return pb_utils.Tensor(name, np.ascontiguousarray(value))


def _refusal(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message, code))
