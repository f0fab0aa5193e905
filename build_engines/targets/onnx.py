"""onnxruntime: Triton's native backend, or on the embedded server this project's of that name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from build_engines.attention import FUSED, PLAIN
from build_engines.checkpoint import Checkpoint
from build_engines.graph import STAGES, write_graph
from build_engines.targets.base import StageDone
from networks import NetworkExport
from pipelines.descriptor import EngineSpec, Precision, Quantization, TargetName

BASIC_LEVEL = -1
"""Triton's number. onnxruntime's higher levels move FP8 values through operators without FP8, and
then refuse the graph."""


@dataclass(frozen=True)
class OnnxTarget:
    """``model.onnx`` on a CPU."""

    precision: Precision
    quantization: Quantization | None = None
    """Of the UNet."""
    name: TargetName = "onnx"
    memory_gb: float | None = None
    engine: EngineSpec | None = None
    stages: int = STAGES

    def built_with(self) -> dict[str, str]:
        """See :meth:`Target.built_with`."""
        return {}

    def configure(self, config: Any, network: NetworkExport) -> None:
        """See :meth:`Target.configure`."""
        config.backend = "onnxruntime"
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
        if self.quantization == "fp8" and network.rewrite is not None:
            config.optimization.graph.level = BASIC_LEVEL

    def write(
        self, network: NetworkExport, checkpoint: Checkpoint, folder: Path, report: StageDone
    ) -> None:
        """See :meth:`Target.write`."""
        # Quantisation needs the same graph as a TensorRT engine.
        attention = FUSED if network.rewrite is None else PLAIN
        write_graph(
            *(network, checkpoint, folder, report), precision=self.precision, attention=attention
        )
