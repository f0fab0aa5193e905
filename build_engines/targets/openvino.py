"""OpenVINO: this project's backend of that name, on a CPU; in bfloat16 half onnxruntime's time.

The graph is the one for onnxruntime; the precision is chosen when it is loaded.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from build_engines.attention import FUSED
from build_engines.checkpoint import Checkpoint
from build_engines.errors import BuildError, VerificationError
from build_engines.graph import STAGES, write_graph
from build_engines.options import TargetOptions
from build_engines.targets.base import StageDone
from build_engines.verify import Reference, in_order, verify, write_first
from networks import NetworkExport
from pipelines.cpu import CpuError, require_bf16
from pipelines.descriptor import EngineSpec, Precision, TargetName


def open_openvino(options: TargetOptions) -> OpenvinoTarget:
    """The target for the CPU of this machine.

    Raises:
        BuildError: OpenVINO is not installed, or the CPU lacks the precision.
    """
    precision = options.precision or "bf16"
    try:
        version = importlib.metadata.version("openvino")
        if precision == "bf16":
            require_bf16()
    except importlib.metadata.PackageNotFoundError:
        raise BuildError("target: openvino needs the package openvino: pip install openvino") from (
            None
        )
    except CpuError as error:
        raise BuildError(f"precision: {error}; take --precision fp32") from None
    return OpenvinoTarget(precision, version)


@dataclass(frozen=True)
class OpenvinoTarget:
    """``model.onnx`` on a CPU."""

    precision: Precision
    version: str
    """OpenVINO's."""
    name: TargetName = "openvino"
    memory_gb: float | None = None
    engine: EngineSpec | None = None
    stages: int = STAGES + 1

    def built_with(self) -> dict[str, str]:
        """See :meth:`Target.built_with`."""
        return {"openvino": self.version}

    def configure(self, config: Any, network: NetworkExport) -> None:
        """Sets the parameters of Triton's own backend of this name too."""
        config.backend = "openvino"
        config.default_model_filename = "model.onnx"
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
        if self._precision(network) == "bf16":
            config.parameters["HINT_BF16"].string_value = "YES"

    def write(
        self, network: NetworkExport, checkpoint: Checkpoint, folder: Path, report: StageDone
    ) -> None:
        """See :meth:`Target.write`."""
        graph, expected = write_graph(
            *(network, checkpoint, folder, report), precision="fp32", attention=FUSED
        )
        write_first(network, folder, expected, self._precision(network))
        error = self._verify(network, graph, expected)
        report(f"agrees with torch in OpenVINO (relative error {error:.1e})")

    def _precision(self, network: NetworkExport) -> Precision:
        return "fp32" if network.exact_in_bf16 else self.precision

    def _verify(self, network: NetworkExport, graph: Path, expected: Sequence[Reference]) -> float:
        from runners.openvino_session import OpenvinoSettings, open_openvino_session

        try:
            precision = self._precision(network)
            session = open_openvino_session(graph, OpenvinoSettings(precision))
            # The least shape must not be the first, see NetworkExport.warm_up_sizes.
            return verify(network, in_order(network, session.run), reversed(expected), precision)
        except RuntimeError as error:
            raise VerificationError(
                f"{network.role}: OpenVINO cannot run the export: {error}"
            ) from error
