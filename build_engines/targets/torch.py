"""torch: this project's backend of that name, on a GPU or a CPU, for machines without TensorRT."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tritonclient.grpc import model_config_pb2

from build_engines.checkpoint import Checkpoint
from build_engines.errors import VerificationError
from build_engines.options import TargetOptions
from build_engines.targets.base import StageDone
from build_engines.verify import InputArrays, OutputArrays, Run, references, run_in_torch, verify
from build_engines.weights import load_network
from networks import NetworkExport
from networks.precision import forbid_tf32, lowered, overflowing
from networks.stored import read_network, write_network
from pipelines.descriptor import EngineSpec, Precision, TargetName


def open_torch(options: TargetOptions) -> TorchTarget:
    """The target for a GPU, present or given by its memory; else for a CPU."""
    memory_gb = options.memory_gb
    if memory_gb is None and torch.cuda.is_available():
        memory_gb = torch.cuda.get_device_properties(0).total_memory / 1e9
    return TorchTarget(options.precision or "fp32", memory_gb)


@dataclass(frozen=True)
class TorchTarget:
    """``model.safetensors`` and ``network.json``, see :mod:`networks.stored`."""

    precision: Precision
    memory_gb: float | None = None
    name: TargetName = "torch"
    engine: EngineSpec | None = None
    stages: int = 4

    def built_with(self) -> dict[str, str]:
        """See :meth:`Target.built_with`."""
        return {} if self.memory_gb is None else {"memory_gb": f"{self.memory_gb:.0f}"}

    def configure(self, config: Any, network: NetworkExport) -> None:
        """Uses a GPU if the server has one, with inputs on it."""
        config.backend = "torch"
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO, count=1)
        config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"

    def write(
        self, network: NetworkExport, checkpoint: Checkpoint, folder: Path, report: StageDone
    ) -> None:
        """See :meth:`Target.write`."""
        module = load_network(network, checkpoint)
        report("loaded")
        expected = references(network, module)
        report("run in torch")
        float32 = overflowing(network, module, self.precision, [each.tensors for each in expected])
        lowered(network, module, self.precision, float32)
        write_network(network, module, folder, precision=self.precision, float32=float32)
        del module
        gc.collect()
        report("written")
        error = verify(network, _runner(network, folder), expected, self.precision)
        report(f"agrees with float32 (relative error {error:.1e})")


def _runner(network: NetworkExport, folder: Path) -> Run:
    """Runs the written network after reading it again, on a GPU if there is one."""
    forbid_tf32()  # it is compared with float32 on a CPU
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = read_network(folder, device).module

    def run(inputs: InputArrays) -> OutputArrays:
        tensors = (torch.from_numpy(array).to(device) for array in inputs.values())
        try:
            return run_in_torch(module, tensors)
        except RuntimeError as error:
            raise VerificationError(f"{network.role}: torch cannot run it: {error}") from error

    return run
