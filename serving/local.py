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
from preprocessing.images import Pixels
from preprocessing.prepare import prepare
from sampling.engine import StepEngine
from sampling.pipeline import load_pipelines
from sampling.program import Tensors
from sampling.service import sample
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
        self._folders = {
            network.model: folder / network.model
            for descriptor, folder in load_all(repositories).values()
            for network in descriptor.networks.values()
        }
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
        session = self.session(network)
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}
        start_s = time.perf_counter()
        outputs = session.run(arrays)
        seconds = time.perf_counter() - start_s
        rows = next(iter(arrays.values())).shape[0]
        self.calls.append(NetworkCall(network, rows, seconds))
        return {name: torch.from_numpy(array) for name, array in outputs.items()}


class LocalDetailer:
    """What the ensemble does, step by step in one process.

    Args:
        repositories: folders with pipelines built for onnxruntime.
    """

    def __init__(self, repositories: Iterable[Path], threads: int = 0) -> None:
        folders = list(repositories)
        self.networks = LocalNetworks(folders, threads)
        self._pipelines = load_pipelines(folders)
        self._max_batch = {
            network.model: network.max_batch
            for pipeline in self._pipelines.values()
            for network in pipeline.descriptor.networks.values()
        }

    def detail(
        self, request_json: bytes, image: Pixels, masks: Pixels | None, seg_images: Pixels | None
    ) -> Composed:
        """One request; arguments and errors are those of :func:`preprocessing.prepare.prepare`."""
        return asyncio.run(self._detail(request_json, image, masks, seg_images))

    async def _detail(
        self, request_json: bytes, image: Pixels, masks: Pixels | None, seg_images: Pixels | None
    ) -> Composed:
        prepared = prepare(request_json, image, masks, seg_images, pipelines=self._pipelines)
        plan = prepared.plan
        engine = StepEngine(self.networks, self._max_batch)
        serving = asyncio.create_task(engine.serve())
        try:
            pipeline = self._pipelines[plan.request.pipeline]
            done = await sample(engine, pipeline, plan, prepared.crops, prepared.masks)
        finally:
            serving.cancel()
        return composite(
            plan, done.outcome, prepared.canvas, done.sampled, prepared.masks, prepared.given
        )
