"""One network in torch, on a GPU or a CPU, with tensors as inputs and outputs.

Needs the libraries of a build (diffusers, transformers): it runs their modules with their own
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
from networks.precision import forbid_tf32
from networks.stored import read_network
from runners.cuda_graphs import CudaCapture, GraphCache, NetworkFunction, TensorList


@dataclass(frozen=True)
class TorchSettings:
    """Settings of a session."""

    graphs: bool = True
    """Uses CUDA graphs; no effect on a CPU."""
    channels_last: bool = True
    """Pixels before channels in memory, the layout of tensor cores; no effect on a CPU."""
    compile: bool = False
    """Uses torch.compile: minutes for each new shape, and faster afterwards."""
    threads: int = 0
    """Threads of torch in this process on a CPU; 0: one per core."""

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
    """The device of a Triton instance, by the arguments of its Python model.

    Raises:
        ValueError: it is a GPU and torch cannot use it.
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
    """Loads the files of the torch target in ``folder``; see :mod:`networks.stored`."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    stored = read_network(folder, device)
    return TorchSession(stored.network, stored.module, device, settings or TorchSettings())


class TorchSession:
    """A loaded network; to be used from one thread.

    Args:
        module: on the device; has the network's inputs as arguments and its outputs as results.
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
        forbid_tf32()
        on_gpu = device.type == "cuda"
        runner = _runner(module, settings, channels_last=on_gpu and settings.channels_last)
        self._run = GraphCache(runner, CudaCapture()) if on_gpu and settings.graphs else runner

    def run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Runs the network on a batch [rows, …] on any device; returns the outputs by name on the
        session's device, contiguous and complete.

        Raises:
            RuntimeError: torch's error; its text may contain shapes.
        """
        with torch.inference_mode():
            outputs = self._run(*(inputs[name].to(self._device) for name in self.input_names))
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # a reader may not synchronize
        return dict(zip(self.output_names, outputs, strict=True))


def _runner(module: nn.Module, settings: TorchSettings, *, channels_last: bool) -> NetworkFunction:
    """The module as a function of contiguous tensors that returns a sequence of them."""
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
