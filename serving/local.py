"""Pipelines in this very process, without Triton: the yardstick for what the server adds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines import load_all
from preprocessing.composite import Composed, composite
from preprocessing.prepare import Inputs, prepare
from sampling.pipeline import load_pipelines
from sampling.program import Tensors
from sampling.service import DetailService
from serving.onnx_session import OnnxSession, open_session


@dataclass(frozen=True)
class NetworkCall:
    """One batch that was run."""

    network: str
    rows: int
    seconds: float


class LocalNetworks:
    """The networks of some repositories as onnxruntime sessions, opened when first needed.

    Args:
        threads: of one network; 0 means one per core.
    """

    def __init__(self, repositories: Iterable[Path], threads: int = 0) -> None:
        found = load_all(repositories).values()
        self._folders = {
            network.model: folder / network.model
            for descriptor, folder in found
            for network in descriptor.networks.values()
        }
        self._behind: dict[str, tuple[str, str]] = {}
        """Ensemble of a ControlNet and a UNet → the two models."""
        for descriptor, folder in found:
            for spec in descriptor.controlnets.values():
                alone = spec.network.model
                self._folders[alone] = folder / alone
                self._behind[spec.unet] = alone, descriptor.networks["unet"].model
        self._threads = threads
        self._sessions: dict[str, OnnxSession] = {}
        self.calls: list[NetworkCall] = []

    def session(self, network: str) -> OnnxSession:
        """The network's session."""
        if network not in self._sessions:
            path = self._folders[network] / "1" / "model.onnx"
            self._sessions[network] = open_session(path, self._threads)
        return self._sessions[network]

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        """One batch; it blocks the loop, as nothing else needs to go on."""
        if network in self._behind:
            return await self._run_behind(*self._behind[network], inputs)
        session = self.session(network)
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}
        start_s = time.perf_counter()
        outputs = session.run(arrays)
        seconds = time.perf_counter() - start_s
        rows = next(iter(arrays.values())).shape[0]
        self.calls.append(NetworkCall(network, rows, seconds))
        return {name: torch.from_numpy(array) for name, array in outputs.items()}

    async def _run_behind(self, controlnet: str, unet: str, inputs: Tensors) -> Tensors:
        """A ControlNet, then the UNet with its residuals: what Triton's ensemble does."""
        known = set(self.session(controlnet).input_names)
        shown = {name: tensor for name, tensor in inputs.items() if name in known}
        shown["sample"] = inputs.get("control_sample", inputs["sample"])
        residuals = await self.run(controlnet, shown)
        known = set(self.session(unet).input_names)
        told = {name: tensor for name, tensor in inputs.items() if name in known}
        return await self.run(unet, {**told, **residuals})


class LocalDetailer:
    """What the ensemble does, step by step in one process.

    Args:
        repositories: folders with pipelines built for onnxruntime.
    """

    def __init__(self, repositories: Iterable[Path], threads: int = 0) -> None:
        folders = list(repositories)
        self.networks = LocalNetworks(folders, threads)
        self._pipelines = load_pipelines(folders)

    def detail(self, inputs: Inputs) -> Composed:
        """One request; errors are those of :func:`preprocessing.prepare.prepare`."""
        return asyncio.run(self._detail(inputs))

    async def _detail(self, inputs: Inputs) -> Composed:
        descriptors = {name: pipe.descriptor for name, pipe in self._pipelines.items()}
        prepared = prepare(inputs, pipelines=descriptors)
        plan = prepared.plan
        service = DetailService(self.networks, self._pipelines)
        serving = asyncio.create_task(service.engine.serve())
        try:
            done = await service.sample(plan, prepared.crops, prepared.masks)
        finally:
            serving.cancel()
        return composite(
            plan,
            done.outcome,
            canvas=prepared.canvas,
            crops=prepared.crops,
            sampled=done.sampled,
            masks=prepared.masks,
            given=prepared.given,
        )
