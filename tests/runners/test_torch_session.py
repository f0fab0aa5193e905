"""Networks in torch: the session and its settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from build_engines import TargetOptions
from build_engines.families import detect
from build_engines.formats import open_checkpoint
from networks import NetworkExport, ShapeCase
from networks.stored import read_network
from runners.in_process import LocalNetworks
from runners.torch_session import (
    TorchSession,
    TorchSettings,
    instance_device,
    open_torch_session,
)
from tests.conftest import CHECKPOINTS, GOLDEN
from tests.golden.cases import read
from tests.golden.pipelines import build_pipelines
from tests.golden.runners import EngineRunner, served
from tests.golden.verdict import TOLERANCES, judge

CPU, META = torch.device("cpu"), torch.device("meta")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


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
            example = network.example(ShapeCase(rows, each), torch.Generator().manual_seed(rows))
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
    with served(torch_repository) as runner:
        for name in ("feature-base", "feature-cnet"):
            case = read(GOLDEN / f"{name}.npz")
            verdict = judge(case, runner.run(case))
            assert verdict.passed, verdict
