"""One ONNX network in OpenVINO on the CPU, with numpy arrays as inputs and outputs.

A batch runs as a whole, all cores sharing every operator: measured as fast as one row per core,
and a single row uses all cores too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.cpu import require_bf16
from pipelines.descriptor import Precision
from runners.cores import physical_cores

if TYPE_CHECKING:  # loaded with the first network: some libraries crash beside it
    import openvino as ov

    from runners.onnx_session import NamedArrays

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
_ANGLES = ("Sin", "Cos")


@dataclass(frozen=True)
class OpenvinoSettings:
    """Settings of a session."""

    precision: Precision = "fp32"
    """Of products, convolutions and the values between them: fp32 or bf16; inputs and outputs are
    FP32."""
    threads: int = 0
    """Threads that share every operator; 0: one per core."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> OpenvinoSettings:
        """Reads a Triton model config by the parameter names of Triton's native backend:
        ``HINT_BF16`` (YES) and ``INFERENCE_NUM_THREADS``.

        Raises:
            ValueError: a parameter is no number, or neither YES nor NO.
        """
        parameters = config.get("parameters", {})
        given = {name: value["string_value"] for name, value in parameters.items()}
        bf16 = given.get("HINT_BF16", "NO").upper()
        if bf16 not in ("YES", "NO"):
            raise ValueError(f"HINT_BF16 {bf16!r}: allowed: YES, NO")
        return cls(
            precision="bf16" if bf16 == "YES" else "fp32",
            threads=int(given.get("INFERENCE_NUM_THREADS", 0)),
        )


class OpenvinoSession:
    """A loaded network; thread-safe, calls run one after another.

    Args:
        angles: sines and cosines of inputs, computed in float32 for ``network``'s further inputs of
            the same names; None: there are none.
    """

    def __init__(
        self,
        network: ov.CompiledModel,
        angles: ov.CompiledModel | None,
        input_names: tuple[str, ...],
        output_names: tuple[str, ...],
    ) -> None:
        self.input_names = input_names
        self.output_names = output_names
        self._network = network.create_infer_request()
        self._angles = angles.create_infer_request() if angles else None
        self._lock = threading.Lock()

    def run(self, inputs: NamedArrays) -> NamedArrays:
        """Runs the network on a batch [rows, …]; every output by its name.

        Raises:
            RuntimeError: OpenVINO's, whose text may contain paths and shapes.
        """
        with self._lock:
            given: dict[str, Any] = dict(inputs)
            if self._angles is not None:
                read = {name: inputs[name] for name in _names(self._angles.model_inputs)}
                found = self._angles.infer(read)
                given |= {port.any_name: array for port, array in found.items()}
            outputs = self._network.infer(given)
            return {name: np.array(outputs[name]) for name in self.output_names}


def open_openvino_session(
    model_path: Path, settings: OpenvinoSettings = OpenvinoSettings()
) -> OpenvinoSession:
    """Loads ``model_path`` with the weight files beside it.

    Raises:
        CpuError: the precision is bf16 and the CPU has it not.
        RuntimeError: OpenVINO cannot read or compile the network.
    """
    import openvino as ov

    if settings.precision == "bf16":
        require_bf16()
    core = ov.Core()
    model = core.read_model(model_path)
    inputs, outputs = _names(model.inputs), _names(model.outputs)
    angles = _cut_angles(model) if settings.precision == "bf16" else None
    properties = {
        "INFERENCE_PRECISION_HINT": _HINTS[settings.precision],
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": settings.threads or physical_cores(),
        # Pinned threads of several processes would share cores while others are idle.
        "ENABLE_CPU_PINNING": False,
    }
    network = core.compile_model(model, "CPU", properties)
    exact = {**properties, "INFERENCE_PRECISION_HINT": _HINTS["fp32"], "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(angles, "CPU", exact) if angles else None
    return OpenvinoSession(network, compiled, inputs, outputs)


def _names(ports: Any) -> tuple[str, ...]:
    return tuple(port.any_name for port in ports)


def _cut_angles(model: ov.Model) -> ov.Model | None:
    """Takes the sines and cosines out of a network, which gets them as further inputs; returns the
    part that computes them.

    They are the embeddings of timesteps and sizes. bfloat16 holds whole numbers up to 256 only, so
    an angle of 999 would be off by up to 2 radians.
    """
    import openvino as ov
    from openvino import op

    found = [node for node in model.get_ordered_ops() if node.get_type_name() in _ANGLES]
    if not found:
        return None
    results, parameters = [], []
    for node in found:
        name = node.get_friendly_name()
        output = node.output(0)
        parameter = op.Parameter(output.get_element_type(), output.get_partial_shape())
        parameter.set_friendly_name(name)
        parameter.output(0).set_names({name})
        output.replace(parameter.output(0))
        output.set_names({name})
        results.append(op.Result(output))
        parameters.append(parameter)
    part = ov.Model(results, _parameters_of(found), "angles").clone()
    model.add_parameters(parameters)
    return part


def _parameters_of(nodes: list[Any]) -> list[Any]:
    """The network's inputs that the nodes are computed from."""
    seen: dict[str, Any] = {}
    left = list(nodes)
    while left:
        node = left.pop()
        if node.get_name() not in seen:
            seen[node.get_name()] = node
            left += [each.get_source_output().get_node() for each in node.inputs()]
    return [node for node in seen.values() if node.get_type_name() == "Parameter"]
