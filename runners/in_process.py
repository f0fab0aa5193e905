"""Pipelines run in this process, without Triton: the reference for the server's overhead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from pipelines import PipelineError, load_all
from pipelines.descriptor import TargetName
from preprocessing.composite import Composed, composite
from preprocessing.prepare import RequestTensors, prepare
from runners.onnx_session import NamedArrays, SessionSettings, open_session
from sampling.pipeline import load_pipelines
from sampling.program import Tensors
from sampling.service import DetailService


@dataclass(frozen=True)
class TimedBatch:
    """A finished batch."""

    network: str
    rows: int
    seconds: float


class LocalSession(Protocol):
    """A loaded network with tensors by name."""

    input_names: tuple[str, ...]

    def run(self, inputs: Tensors) -> Tensors: ...


class ArraySession(Protocol):
    """A loaded network with numpy arrays by name."""

    input_names: tuple[str, ...]

    def run(self, inputs: NamedArrays) -> NamedArrays: ...


class LocalNetworks:
    """The networks of model repositories in onnxruntime, OpenVINO or torch, by their target, loaded
    at first use; torch's on a GPU if there is one.

    Args:
        threads: of one network in onnxruntime or OpenVINO; 0: one per core.
    """

    def __init__(self, repositories: Iterable[Path], threads: int = 0) -> None:
        found = load_all(repositories).values()
        self._folders: dict[str, tuple[TargetName, Path]] = {}
        self._behind: dict[str, tuple[str, str]] = {}
        """Ensemble of a ControlNet and a UNet → the two models."""
        for descriptor, folder in found:
            for network in descriptor.all_networks:
                path = folder / network.model / "1"
                self._folders[network.model] = descriptor.target, path
            for spec in descriptor.controlnets.values():
                self._behind[spec.unet] = spec.network.model, descriptor.networks["unet"].model
        self._threads = threads
        self._sessions: dict[str, LocalSession] = {}
        self.calls: list[TimedBatch] = []

    def session(self, network: str) -> LocalSession:
        """The network's session.

        Raises:
            PipelineError: it was built for another target.
        """
        if network not in self._sessions:
            target, folder = self._folders[network]
            match target:
                case "onnx":
                    session: LocalSession = _open_onnx(folder, self._threads)
                case "openvino":
                    session = _open_openvino(folder, self._threads)
                case "torch":
                    session = _open_torch(folder)
                case _:
                    raise PipelineError(f"{network}: networks for {target} run in a server only")
            self._sessions[network] = session
        return self._sessions[network]

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        """Runs one batch; blocks the event loop, which has no other work."""
        if network in self._behind:
            return await self._run_behind(*self._behind[network], inputs)
        session = self.session(network)
        start_s = time.perf_counter()
        outputs = session.run(inputs)
        seconds = time.perf_counter() - start_s
        rows = next(iter(inputs.values())).shape[0]
        self.calls.append(TimedBatch(network, rows, seconds))
        return outputs

    async def _run_behind(self, controlnet: str, unet: str, inputs: Tensors) -> Tensors:
        """Runs a ControlNet, then the UNet with its residuals, as Triton's ensemble does."""
        known = set(self.session(controlnet).input_names)
        tensors = {name: tensor for name, tensor in inputs.items() if name in known}
        tensors["sample"] = inputs.get("control_sample", inputs["sample"])
        residuals = await self.run(controlnet, tensors)
        known = set(self.session(unet).input_names)
        tensors = {name: tensor for name, tensor in inputs.items() if name in known}
        return await self.run(unet, {**tensors, **residuals})


class ArrayNetwork:
    """A session on numpy arrays, with torch tensors as inputs and outputs."""

    def __init__(self, session: ArraySession) -> None:
        self.input_names = session.input_names
        self._session = session

    def run(self, inputs: Tensors) -> Tensors:
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in inputs.items()}
        outputs = self._session.run(arrays)
        return {name: torch.from_numpy(array) for name, array in outputs.items()}


def _open_onnx(folder: Path, threads: int) -> LocalSession:
    settings = SessionSettings.from_config(_model_config(folder))
    return ArrayNetwork(
        open_session(folder / "model.onnx", settings=replace(settings, threads=threads))
    )


# Imported here: only pipelines built for them need their libraries.


def _open_openvino(folder: Path, threads: int) -> LocalSession:
    from runners.openvino_session import OpenvinoSettings, open_openvino_session

    config = _model_config(folder)
    settings = replace(OpenvinoSettings.from_config(config), threads=threads)
    session = open_openvino_session(folder / "model.onnx", settings)
    for sample in config["model_warmup"]:
        session.run(_zeros(sample))
    return ArrayNetwork(session)


def _open_torch(folder: Path) -> LocalSession:
    from runners.torch_session import open_torch_session

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return open_torch_session(folder, device)


def _model_config(folder: Path) -> dict[str, Any]:
    """Triton's configuration of the model with this version, as its Python models get it."""
    text = (folder.parent / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    return dict(json_format.MessageToDict(config, preserving_proto_field_name=True))


def _zeros(sample: Mapping[str, Any]) -> NamedArrays:
    """The inputs of Triton's zero-filled warm-up."""
    dtypes = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}
    return {
        name: np.zeros((sample["batch_size"], *map(int, entry["dims"])), dtypes[entry["data_type"]])
        for name, entry in sample["inputs"].items()
    }


class LocalDetailer:
    """Runs the steps of the ensemble in one process.

    Args:
        repositories: folders with pipelines built for onnxruntime, OpenVINO or torch.
        networks: run the batches; None: those of the repositories.
    """

    def __init__(
        self,
        repositories: Iterable[Path],
        threads: int = 0,
        networks: LocalNetworks | None = None,
    ) -> None:
        folders = list(repositories)
        self.networks = networks or LocalNetworks(folders, threads)
        self._pipelines = load_pipelines(folders)

    def detail(self, inputs: RequestTensors) -> Composed:
        """Runs one request; raises the errors of :func:`preprocessing.prepare.prepare`."""
        return asyncio.run(self._detail(inputs))

    async def _detail(self, inputs: RequestTensors) -> Composed:
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
