"""One network in torch, on a GPU or a CPU, with tensors in and out.

Needs what builds need (diffusers, transformers): the modules are theirs, with their own
attention, which is torch's fused one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from networks import NetworkExport
from networks.stored import read_network
from runners.cuda_graphs import CudaCapture, GraphCache, NetworkFunction, TensorList


@dataclass(frozen=True)
class TorchSettings:
    """How a network is run."""

    graphs: bool = True
    """CUDA graphs; nothing on a CPU."""
    channels_last: bool = True
    """Pixels before channels in memory, as tensor cores take them; nothing on a CPU."""
    compile: bool = False
    """By torch.compile: minutes for each new shape, and faster afterwards."""
    threads: int = 0
    """Of torch in this process, on a CPU; 0 means one per core."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TorchSettings:
        """Reads a Triton model config's parameters ``cuda_graphs``, ``channels_last``,
        ``compile`` (0 or 1 each) and ``intra_op_thread_count``.

        Raises:
            ValueError: a parameter is no number.
        """
        parameters = config.get("parameters", {})

        def number(name: str, default: int) -> int:
            return int(parameters[name]["string_value"]) if name in parameters else default

        return cls(
            graphs=bool(number("cuda_graphs", cls.graphs)),
            channels_last=bool(number("channels_last", cls.channels_last)),
            compile=bool(number("compile", cls.compile)),
            threads=number("intra_op_thread_count", cls.threads),
        )


def instance_device(kind: str, device_id: str) -> torch.device:
    """The device of a Triton instance, by the arguments that its Python model gets.

    Raises:
        ValueError: it is a GPU, which this torch cannot use.
    """
    if kind.removeprefix("KIND_") != "GPU":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"the instance is on a GPU, torch {torch.__version__} finds none; install a torch "
            "with CUDA, or set the instance group's kind to KIND_CPU"
        )
    return torch.device("cuda", int(device_id))


def open_torch_session(
    folder: Path, device: torch.device, settings: TorchSettings | None = None
) -> TorchSession:
    """Loads what the torch target has written into ``folder``; see :mod:`networks.stored`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    stored = read_network(folder, device)
    return TorchSession(stored.network, stored.module, device, settings or TorchSettings())


class TorchSession:
    """A loaded network. To be used from one thread.

    Args:
        module: on the device; its arguments and results are the network's.
    """

    def __init__(
        self,
        network: NetworkExport,
        module: nn.Module,
        device: torch.device,
        settings: TorchSettings,
    ) -> None:
        self.input_names: tuple[str, ...] = tuple(each.name for each in network.inputs)
        self.output_names: tuple[str, ...] = tuple(each.name for each in network.outputs)
        self._device = device
        # float32 is the precision that was asked for, TF32 is not.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        on_gpu = device.type == "cuda"
        runner = _runner(module, settings, channels_last=on_gpu and settings.channels_last)
        self._run = GraphCache(runner, CudaCapture()) if on_gpu and settings.graphs else runner

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs the network on a batch [rows, …] on any device; every output by its name, on the
        session's, contiguous and complete.

        Raises:
            RuntimeError: torch's own; its text may hold shapes.
        """
        with torch.inference_mode():
            outputs = self._run(*(inputs[name].to(self._device) for name in self.input_names))
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # whoever gets it may not wait
        return dict(zip(self.output_names, outputs, strict=True))


def _runner(module: nn.Module, settings: TorchSettings, *, channels_last: bool) -> NetworkFunction:
    """The module on contiguous tensors, with a sequence of them as its result."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout)  # type: ignore[call-overload]
    network: Any = torch.compile(module) if settings.compile else module

    def run(*inputs: torch.Tensor) -> TensorList:
        outputs = network(
            *(each.contiguous(memory_format=layout) if each.ndim == 4 else each for each in inputs)
        )
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return [each.contiguous() for each in outputs]

    return run
