"""Runs requests in this process with a chosen UNet and a listener of its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engines.errors import BuildError
from build_engines.quantize.workload import CalibrationRequest
from pipelines.descriptor import PipelineDescriptor
from preprocessing.prepare import RequestTensors
from runners.in_process import ArrayNetwork, LocalDetailer, LocalNetworks, LocalSession
from runners.onnx_session import OnnxSession
from sampling.program import Tensors
from segs_client.arrays import ByteArray
from segs_client.messages import build

Array = NDArray[Any]
Arrays = Mapping[str, Array]
CallListener = Callable[[Arrays, Arrays], object]
"""Called for every call of the UNet, with inputs and outputs ``[rows, …]`` by name."""


@dataclass(frozen=True)
class Redrawn:
    """The result of a request: the input ``[1, c, h, w]`` of the VAE's decoder, and the picture
    ``[H, W, 3]``."""

    latent: Array
    picture: ByteArray


class Runs:
    """Runs requests with a pipeline built for onnxruntime in ``repository``."""

    def __init__(self, repository: Path, descriptor: PipelineDescriptor) -> None:
        self._name = descriptor.name
        self._networks = _Networks(repository, descriptor)
        self._local = LocalDetailer([repository], networks=self._networks)

    def redraw(
        self,
        request: CalibrationRequest,
        unet: OnnxSession | None = None,
        watch: CallListener | None = None,
    ) -> Redrawn:
        """Runs a request of one SEG.

        Args:
            unet: replaces the pipeline's.

        Raises:
            BuildError: nothing was sampled.
        """
        self._networks.begin(unet, watch)
        built = build(request.picture, [request.box], pipeline=self._name, **request.options)
        done = self._local.detail(
            RequestTensors(
                built.request.model_dump_json().encode(),
                built.image,
                built.masks,
                built.seg_images,
                built.control_images,
            )
        )
        if self._networks.latent is None:
            status = ", ".join(seg.status for seg in done.report.segs)
            raise BuildError(f"calibration: {request.name} at {request.box} was {status}")
        return Redrawn(self._networks.latent, done.image.reshape(request.picture.shape))


class _Networks(LocalNetworks):
    def __init__(self, repository: Path, descriptor: PipelineDescriptor) -> None:
        super().__init__([repository])
        self._unet = descriptor.networks["unet"].model
        self._decoder = descriptor.networks["vae_decoder"].model
        self.other: OnnxSession | None = None
        self.watch: CallListener | None = None
        self.latent: Array | None = None

    def begin(self, other: OnnxSession | None, watch: CallListener | None) -> None:
        """Starts a request: sets its UNet and listener and clears the last result."""
        self.other, self.watch, self.latent = other, watch, None

    def session(self, network: str) -> LocalSession:
        if network == self._unet and self.other is not None:
            return ArrayNetwork(self.other)
        return super().session(network)

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        outputs = await super().run(network, inputs)
        if network == self._unet and self.watch is not None:
            self.watch(_arrays(inputs), _arrays(outputs))
        elif network == self._decoder:
            self.latent = inputs["latent_sample"].numpy()
        return outputs


def _arrays(tensors: Tensors) -> dict[str, Array]:
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in tensors.items()}
