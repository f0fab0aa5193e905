"""Runs a plan on torch's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from build_engines.errors import VerificationError
from build_engines.tensorrt.callbacks import make_logger
from build_engines.verify import InputArrays, OutputArrays

_STREAM = 0
"""CUDA's default stream, which torch's copies use too, so that all is done in order."""


class Plan:
    """A loaded engine.

    Args:
        trt: the module ``tensorrt``.
        path: the plan's file.
        outputs: their names, in the network's order; all are float32.
        device: where its tensors are.

    Raises:
        VerificationError: TensorRT cannot load it.
    """

    def __init__(self, trt: Any, path: Path, outputs: Sequence[str], device: str = "cuda") -> None:
        self._outputs = outputs
        self._device = torch.device(device)
        self._logger = make_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._require(self._engine is not None, "cannot load the engine")
        self._context = self._engine.create_execution_context()
        self._require(self._context is not None, "cannot run the engine")

    def run(self, inputs: InputArrays) -> OutputArrays:
        """The outputs of one batch.

        Raises:
            VerificationError: no profile holds the inputs, or TensorRT fails.
        """
        context = self._context
        profile = self._profile({name: array.shape for name, array in inputs.items()})
        self._require(context.set_optimization_profile_async(profile, _STREAM), "has no profile")
        tensors = {
            name: torch.from_numpy(array).contiguous().to(self._device)
            for name, array in inputs.items()
        }
        for name, tensor in tensors.items():
            self._require(context.set_input_shape(name, tuple(tensor.shape)), f"refuses {name}")
        for name in self._outputs:
            tensors[name] = torch.empty(tuple(context.get_tensor_shape(name)), device=self._device)
        for name, tensor in tensors.items():
            self._require(context.set_tensor_address(name, tensor.data_ptr()), f"refuses {name}")
        self._require(context.execute_async_v3(_STREAM), "cannot run the engine")
        return [tensors[name].cpu().numpy() for name in self._outputs]

    def _profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The first profile that holds these inputs."""
        for index in range(self._engine.num_optimization_profiles):
            if all(self._holds(index, name, shape) for name, shape in shapes.items()):
                return index
        raise VerificationError(f"no optimisation profile of the engine holds {dict(shapes)}")

    def _holds(self, profile: int, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, profile)
        return all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True))

    def _require(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise VerificationError(f"TensorRT {what}: {self._logger.said()}")
