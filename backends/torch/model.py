"""A Triton backend named ``torch``: a pipeline's networks in torch, on a GPU or a CPU.

Tensors are passed by DLPack, so that those on the GPU stay there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from runners.cores import NETWORK_NICENESS, lower_priority, physical_cores
from runners.torch_session import TorchSession, TorchSettings, instance_device, open_torch_session
from triton_models import pb_utils
from triton_models.network_model import NetworkModel


class TritonPythonModel(NetworkModel):
    """A network in torch."""

    def open(self, folder: Path, config: dict[str, Any], args: dict[str, str]) -> TorchSession:
        device = instance_device(args["model_instance_kind"], args["model_instance_device_id"])
        if device.type == "cpu":
            lower_priority(NETWORK_NICENESS)
        settings = TorchSettings.from_config(config)
        torch.set_num_threads(settings.threads or physical_cores())
        return open_torch_session(folder, device, settings)

    def read(self, tensor: Any) -> torch.Tensor:
        return from_dlpack(tensor.to_dlpack())

    def write(self, name: str, value: torch.Tensor) -> Any:
        return pb_utils.Tensor.from_dlpack(name, value)
