"""Networks in torch: the session, the cache of CUDA graphs, and the backend around them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import json_format, text_format
from torch import nn
from torch.utils.dlpack import from_dlpack
from tritonclient.grpc import model_config_pb2

from build_engines import TargetOptions
from build_engines.checkpoint import open_checkpoint
from build_engines.families import detect
from build_engines.networks import Case, NetworkExport
from build_engines.stored import read_network
from runners.cuda_graphs import GraphCache, Network, Tensors
from runners.in_process import LocalNetworks
from runners.torch_session import (
    TorchSession,
    TorchSettings,
    instance_device,
    open_torch_session,
)
from serving.options import REPOSITORY_ROOT
from serving.server import EmbeddedServer
from tests.conftest import CHECKPOINTS, GOLDEN
from tests.golden.cases import read
from tests.golden.pipelines import build_pipelines
from tests.golden.runners import EngineRunner, ServerRunner
from tests.golden.verdict import TOLERANCES, judge

CPU, META = torch.device("cpu"), torch.device("meta")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


def doubled(x: torch.Tensor) -> Tensors:
    return [2 * x]


@dataclass
class FakeGraph:
    """Keeps to what a CUDA graph can: fixed shapes, one memory that every run overwrites."""

    network: Network
    inputs: list[torch.Tensor]

    def replay(self, inputs: Tensors) -> Tensors:
        for own, given in zip(self.inputs, inputs, strict=True):
            own[: len(given)] = given
        return [each[: len(inputs[0])].clone() for each in self.network(*self.inputs)]


class FakeCapture:
    """Counts captures by their rows; refuses widths it is told to."""

    def __init__(self, refused: Sequence[int] = ()) -> None:
        self.rows: list[int] = []
        self.refused = refused

    def __call__(self, network: Network, inputs: Tensors, rows: int) -> FakeGraph:
        self.rows.append(rows)
        if inputs[0].shape[1] in self.refused:
            raise RuntimeError("operation not permitted when stream is capturing")
        return FakeGraph(network, [each.new_zeros((rows, *each.shape[1:])) for each in inputs])


def batch(rows: int, width: int = 3) -> torch.Tensor:
    return torch.arange(rows * width, dtype=torch.float32).reshape(rows, width)


def check(cache: GraphCache, rows: int, width: int = 3) -> None:
    (output,) = cache(batch(rows, width))
    torch.testing.assert_close(output, 2 * batch(rows, width))


def test_the_second_use_of_a_shape_is_captured() -> None:
    capture = FakeCapture()
    cache = GraphCache(doubled, capture)
    check(cache, 3)
    assert capture.rows == []
    for rows in (3, 4, 3):  # one graph of four rows for all
        check(cache, rows)
    assert capture.rows == [4]
    for rows in (5, 8, 6):
        check(cache, rows)
    assert capture.rows == [4, 8]
    for _ in range(3):
        check(cache, 17)  # more than any graph has
    assert capture.rows == [4, 8]


def test_results_outlive_the_next_run() -> None:
    cache = GraphCache(doubled, FakeCapture())
    for _ in range(2):
        check(cache, 2)
    (first,) = cache(batch(2))
    cache(batch(2) + 1)
    torch.testing.assert_close(first, 2 * batch(2))


def test_what_cannot_be_captured_runs_on_and_is_not_tried_again() -> None:
    capture = FakeCapture(refused=[5])
    cache = GraphCache(doubled, capture)
    for _ in range(4):
        check(cache, 1, width=5)
    assert capture.rows == [1]
    for _ in range(2):
        check(cache, 1, width=6)
    assert capture.rows == [1, 1]


def test_the_least_used_graph_goes_first() -> None:
    capture = FakeCapture()
    cache = GraphCache(doubled, capture, most=2)
    for width in (1, 1, 2, 2, 1, 3, 3):  # the third graph takes the place of width 2's
        check(cache, 1, width)
    assert len(capture.rows) == 3
    check(cache, 1, 1)
    assert len(capture.rows) == 3
    check(cache, 1, 2)  # has to come twice again
    assert len(capture.rows) == 3
    check(cache, 1, 2)
    assert len(capture.rows) == 4


def test_settings() -> None:
    assert TorchSettings.from_config({}) == TorchSettings()
    parameters = {
        "cuda_graphs": "0",
        "compile": "1",
        "channels_last": "0",
        "intra_op_thread_count": "3",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    }
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    expected = TorchSettings(graphs=False, channels_last=False, compile=True, threads=3)
    assert TorchSettings.from_config(config) == expected


def test_device_of_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    assert instance_device("CPU", "0") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert instance_device("GPU", "1") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"the instance is on a GPU, torch .* finds none"):
        instance_device("GPU", "0")


def networks(name: str) -> list[NetworkExport]:
    checkpoint = open_checkpoint(CHECKPOINTS / name)
    return list(detect(checkpoint).open_networks(checkpoint, controlled=name == "sd15"))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sdxl-refiner"])
def test_no_network_waits_for_a_value(name: str) -> None:
    """A graph cannot be captured of a network that does; here there are no values."""
    for network in networks(name):
        module = network.skeleton()
        network.complete(module)
        session = TorchSession(network, module, META, TorchSettings())
        for case in network.cases():
            example = network.example(case, torch.Generator())
            outputs = session.run(example)
            assert [*outputs] == [tensor.name for tensor in network.outputs]
            assert all(each.is_meta and len(each) == case.rows for each in outputs.values())


@pytest.mark.parametrize("role", ["unet", "vae_decoder", "text_encoder"])
def test_a_session_says_what_its_module_says(torch_repository: Path, role: str) -> None:
    folder = torch_repository / f"sd15_{role}" / "1"
    session = open_torch_session(folder, CPU)
    stored = read_network(folder, CPU)
    example = stored.network.example(stored.network.cases()[-1], torch.Generator().manual_seed(1))
    outputs = session.run(example)
    with torch.inference_mode():
        expected = stored.module(*example.values())
    (output,) = outputs.values()
    torch.testing.assert_close(output, expected)
    assert output.is_contiguous()


def test_compile_is_an_option(torch_repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def fake(module: nn.Module) -> nn.Module:
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", fake)
    folder = torch_repository / "sd15_vae_decoder" / "1"
    open_torch_session(folder, CPU)
    assert not compiled
    open_torch_session(folder, CPU, TorchSettings(compile=True))
    assert len(compiled) == 1


@pytest.mark.parametrize("name", ["feature-base", "feature-cnet", "feature-cnet_stack"])
def test_golden_cases_in_torch(torch_repository: Path, name: str) -> None:
    case = read(GOLDEN / f"{name}.npz")
    verdict = judge(case, EngineRunner(torch_repository).run(case))
    assert verdict.passed, verdict


def test_what_a_network_was_built_for_runs_it(torch_repository: Path, repository: Path) -> None:
    assert isinstance(LocalNetworks([torch_repository]).session("sd15_unet"), TorchSession)
    assert not isinstance(LocalNetworks([repository]).session("sd15_unet"), TorchSession)


class FakeTensor:
    """Triton's tensor as its Python backend shows it."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._value = name, value

    @classmethod
    def from_dlpack(cls, name: str, value: torch.Tensor) -> FakeTensor:
        return cls(name, from_dlpack(value))

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return np.asarray(self._value)

    def to_dlpack(self) -> Any:
        return torch.as_tensor(self._value).__dlpack__()


class FakeError(Exception):
    """Triton's error; its codes are those of the real one."""

    INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def fake_response(output_tensors: list[FakeTensor], error: FakeError | None = None) -> Any:
    named = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
    return SimpleNamespace(outputs=named, error=error)


def fake_request(inputs: Mapping[str, Any], outputs: Sequence[str], parameters: str = "") -> Any:
    tensors = [FakeTensor(name, value) for name, value in inputs.items()]
    return SimpleNamespace(
        inputs=lambda: tensors,
        requested_output_names=lambda: [*outputs],
        parameters=lambda: parameters,
    )


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The torch backend's model.py, with a stand-in for what Triton's stub brings."""
    utils = ModuleType("triton_python_backend_utils")
    vars(utils).update(Tensor=FakeTensor, TritonError=FakeError, InferenceResponse=fake_response)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.delitem(sys.modules, "triton_models.network_model", raising=False)
    path = REPOSITORY_ROOT / "backends" / "torch" / "model.py"
    spec = importlib.util.spec_from_file_location("torch_backend_model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("triton_models.network_model.configure_logging", lambda: None)
    monkeypatch.setattr("triton_models.network_model.start_beating", lambda instance: None)
    monkeypatch.setattr(module, "lower_priority", lambda: None)
    yield module
    sys.modules.pop("triton_models.network_model", None)


def arguments(folder: Path, change: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What Triton tells a model about itself."""
    config: Any = model_config_pb2.ModelConfig()
    text_format.Parse((folder / "config.pbtxt").read_text(), config)
    told = json_format.MessageToDict(
        config, preserving_proto_field_name=True, use_integers_for_enums=False
    )
    parameters = told.get("parameters", {})
    parameters["intra_op_thread_count"] = {"string_value": str(torch.get_num_threads())}
    return {
        "model_config": json.dumps({**told, "parameters": parameters, **(change or {})}),
        "model_name": folder.name,
        "model_instance_name": f"{folder.name}_0_0",
        "model_repository": str(folder),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


def test_the_backend_answers_and_refuses(torch_repository: Path, backend: ModuleType) -> None:
    folder = torch_repository / "sd15_vae_decoder"
    model = backend.TritonPythonModel()
    model.initialize(arguments(folder))
    latent = torch.zeros(1, 4, 5, 4)
    good = fake_request({"latent_sample": latent}, ["sample"])
    wrong_shape = fake_request({"latent_sample": latent[:, :3]}, ["sample"])
    wrong_type = fake_request({"latent_sample": latent.double()}, ["sample"])
    nothing = fake_request({}, ["sample"])
    answer, *refused = model.execute([good, wrong_shape, wrong_type, nothing])
    assert answer.error is None
    assert answer.outputs["sample"].shape == (1, 3, 40, 32)
    assert [each.error.code for each in refused] == ["INVALID_ARG"] * 3
    messages = [str(each.error) for each in refused]
    assert "shape [1, 3, 5, 4], [1..4, 4, n, n], none 0, is required" in messages[0]
    assert "data type float64, float32 is required" in messages[1]
    assert messages[2] == "sd15_vae_decoder: inputs []: ['latent_sample'] are required"


def test_the_backend_takes_calls_from_within_alone_where_keys_are_asked_for(
    torch_repository: Path, backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGS_INSIDE", "token")
    model = backend.TritonPythonModel()
    model.initialize(arguments(torch_repository / "sd15_vae_decoder"))
    inputs = {"latent_sample": torch.zeros(1, 4, 4, 4)}
    warm_up = outside = fake_request(inputs, ["sample"])
    within = fake_request(inputs, ["sample"], '{"inside": "token"}')
    warmed, refused, answered = model.execute([warm_up, outside, within])
    assert warmed.error is None
    assert answered.error is None
    assert refused.error.code == "INVALID_ARG"
    assert '"code":"UNAUTHENTICATED"' in str(refused.error)


def test_the_backend_hides_its_own_faults(
    torch_repository: Path, backend: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    model = backend.TritonPythonModel()
    model.initialize(arguments(torch_repository / "sd15_vae_decoder"))

    def fail(inputs: object) -> None:
        raise RuntimeError("CUDA error at /secret/path.py")

    model._session = SimpleNamespace(run=fail)
    (answer,) = model.execute(
        [fake_request({"latent_sample": torch.zeros(1, 4, 4, 4)}, ["sample"])]
    )
    assert answer.error.code == "INTERNAL"
    assert "secret" not in str(answer.error)
    assert str(answer.error).split()[-1] in caplog.text


def test_config_and_network_must_agree(torch_repository: Path, backend: ModuleType) -> None:
    change = {"input": [{"name": "latent", "data_type": "TYPE_FP32", "dims": ["4", "-1", "-1"]}]}
    with pytest.raises(ValueError, match=r"disagree on tensors \['latent', 'latent_sample'\]"):
        backend.TritonPythonModel().initialize(
            arguments(torch_repository / "sd15_vae_decoder", change)
        )


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("role", ["unet", "vae_encoder", "vae_decoder", "text_encoder"])
def test_graphs_say_what_the_cpu_says(torch_repository: Path, role: str) -> None:
    """Rows that fill a graph, rows that do not, and two shapes in turns."""
    folder = torch_repository / f"sd15_{role}" / "1"
    on_cpu = open_torch_session(folder, CPU)
    with_graphs = open_torch_session(folder, torch.device("cuda", 0))
    network = read_network(folder, CPU).network
    sizes = [case.sizes for case in network.cases()[-2:]]
    for rows in (3, 4, 3, 2, 2, 1, 4, 3):
        for each in sizes:
            example = network.example(Case(rows, each), torch.Generator().manual_seed(rows))
            expected, found = on_cpu.run(example), with_graphs.run(example)
            for name, value in expected.items():
                assert found[name].is_cuda
                torch.testing.assert_close(found[name].cpu(), value, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["feature-base", "feature-cnet", "feature-refiner_ancestral"])
def test_golden_cases_on_a_gpu(tmp_path: Path, name: str) -> None:
    case = read(GOLDEN / f"{name}.npz")
    build_pipelines([case], CHECKPOINTS, tmp_path, TargetOptions("torch", precision="fp16"))
    verdict = judge(case, EngineRunner(tmp_path).run(case), TOLERANCES["fp16"])
    assert verdict.passed, verdict


@pytest.mark.server
def test_a_server_of_torch_networks(torch_repository: Path) -> None:
    """The real server with this backend: golden cases by gRPC, with a ControlNet's ensemble."""
    with EmbeddedServer([torch_repository]) as running:
        runner = ServerRunner(running.grpc_url)
        for name in ("feature-base", "feature-cnet"):
            case = read(GOLDEN / f"{name}.npz")
            verdict = judge(case, runner.run(case))
            assert verdict.passed, verdict
        runner.close()
