"""Networks in OpenVINO: settings, precisions, threads; golden cases in both precisions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from build_engines import TargetOptions, build
from pipelines.cpu import CpuError, cpu_flags, require_bf16
from pipelines.descriptor import Precision
from runners import openvino_session
from runners.openvino_session import OpenvinoSettings, open_openvino_session
from tests.bf16 import needs_bf16
from tests.conftest import CHECKPOINTS, CONTROLNET, GOLDEN
from tests.golden.cases import read
from tests.golden.runners import EngineRunner, served
from tests.golden.verdict import TOLERANCES, judge
from tests.serving import toys

pytestmark = pytest.mark.openvino


def repository(precision: Precision) -> Path:
    """The pipeline ``sd15`` with its ControlNet; kept between runs."""
    folder = Path(__file__).parent.parent.parent / "build" / f"tests_openvino_{precision}"
    target = TargetOptions("openvino", precision=precision)
    build(CHECKPOINTS / "sd15", "sd15", folder, target, {CONTROLNET: CHECKPOINTS / CONTROLNET})
    return folder


def test_settings_follow_the_native_names() -> None:
    def read_settings(**parameters: str) -> OpenvinoSettings:
        given = {name: {"string_value": value} for name, value in parameters.items()}
        return OpenvinoSettings.from_config({"parameters": given})

    assert OpenvinoSettings.from_config({}) == OpenvinoSettings("fp32", 0)
    assert read_settings(HINT_BF16="yes", INFERENCE_NUM_THREADS="3") == OpenvinoSettings("bf16", 3)
    assert read_settings(HINT_BF16="NO") == OpenvinoSettings()
    with pytest.raises(ValueError, match="HINT_BF16 'MAYBE': allowed: YES, NO"):
        read_settings(HINT_BF16="maybe")
    with pytest.raises(ValueError, match="many"):
        read_settings(INFERENCE_NUM_THREADS="many")


def test_flags_of_the_cpu(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    assert cpu_flags(cpuinfo) == frozenset()
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t:\n")
    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "amx_bf16"}
    require_bf16(cpu_flags(cpuinfo))
    with pytest.raises(CpuError, match=r"avx512_bf16 or amx_bf16 .* this one has avx2, avx512f"):
        require_bf16(frozenset({"fpu", "avx512f", "avx2"}))
    with pytest.raises(CpuError, match="no vector instructions"):
        require_bf16(frozenset())


def test_bf16_without_the_instructions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        require_bf16(frozenset({"avx2"}))

    monkeypatch.setattr(openvino_session, "require_bf16", refuse)
    toys.write_double(tmp_path / "model.onnx")
    with pytest.raises(CpuError, match="this one has avx2"):
        open_openvino_session(tmp_path / "model.onnx", OpenvinoSettings("bf16"))
    open_openvino_session(tmp_path / "model.onnx", OpenvinoSettings("fp32"))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_session_runs_by_name(tmp_path: Path, rows: int) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_openvino_session(tmp_path / "model.onnx")
    assert (session.input_names, session.output_names) == (("x",), ("y",))
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)


def test_results_are_not_changed_by_later_runs(tmp_path: Path) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_openvino_session(tmp_path / "model.onnx")
    first = session.run({"x": np.ones((2, 3), np.float32)})["y"]
    session.run({"x": np.full((2, 3), 7, np.float32)})
    np.testing.assert_array_equal(first, np.full((2, 3), 2, np.float32))


def test_a_refused_input_raises_and_the_session_goes_on(tmp_path: Path) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_openvino_session(tmp_path / "model.onnx")
    with pytest.raises(RuntimeError):
        session.run({"x": np.ones((2, 3, 3), np.float32)})
    assert session.run({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 3)


def test_calls_from_several_threads_do_not_mix(tmp_path: Path) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_openvino_session(tmp_path / "model.onnx")

    def doubled(value: int) -> bool:
        answer = session.run({"x": np.full((5, 300), value, np.float32)})["y"]
        return bool((answer == 2 * value).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(doubled, range(100)))


def write_waves(path: Path) -> None:
    """``timestep`` [batch, 1], ``x`` [batch, 4] → ``out`` = x · sin(timestep) · cos(timestep)."""
    nodes = [
        helper.make_node("Sin", ["timestep"], ["sine"]),
        helper.make_node("Cos", ["timestep"], ["cosine"]),
        helper.make_node("Mul", ["sine", "cosine"], ["both"]),
        helper.make_node("Mul", ["x", "both"], ["out"]),
    ]
    shapes: dict[str, list[str | int | None]] = {
        "timestep": ["batch", 1],
        "x": ["batch", 4],
        "out": ["batch", 4],
    }
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    }
    graph = helper.make_graph(nodes, "waves", [tensors["timestep"], tensors["x"]], [tensors["out"]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


@needs_bf16
def test_timesteps_are_not_rounded_in_bf16(tmp_path: Path) -> None:
    """999 in bfloat16 would be 1000, whose sine is another."""
    write_waves(tmp_path / "model.onnx")
    session = open_openvino_session(tmp_path / "model.onnx", OpenvinoSettings("bf16"))
    assert session.input_names == ("timestep", "x")
    t = np.array([[999], [601.25], [1]], np.float32)
    x = np.ones((3, 4), np.float32)
    expected = np.broadcast_to(np.sin(t) * np.cos(t), (3, 4))
    np.testing.assert_allclose(session.run({"timestep": t, "x": x})["out"], expected, rtol=2e-2)


@needs_bf16
@pytest.mark.parametrize("name", ["feature-base", "feature-cnet", "feature-odd_sizes"])
def test_pictures_in_bf16(name: str) -> None:
    case = read(GOLDEN / f"{name}.npz")
    verdict = judge(case, EngineRunner(repository("bf16")).run(case), TOLERANCES["fp16"])
    assert verdict.passed, verdict
    assert verdict.max_difference > 0  # it is not float32


@needs_bf16
def test_text_encoder_and_vae_encoder_stay_in_float32() -> None:
    bf16 = {"sd15_unet", "sd15_vae_decoder", "sd15_controlnet_controlnet"}
    for model in (*bf16, "sd15_text_encoder", "sd15_vae_encoder"):
        config = (repository("bf16") / model / "config.pbtxt").read_text()
        assert 'backend: "openvino"' in config
        assert ("HINT_BF16" in config) is (model in bf16)


@pytest.mark.server
def test_a_server_of_openvino_networks() -> None:
    """The real server with this backend: golden cases by gRPC, with a ControlNet's ensemble."""
    with served(repository("fp32")) as runner:
        for name in ("feature-base", "feature-cnet"):
            case = read(GOLDEN / f"{name}.npz")
            verdict = judge(case, runner.run(case))
            assert verdict.passed, verdict
