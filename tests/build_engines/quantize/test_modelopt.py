"""Real quantisation by NVIDIA ModelOpt, in the interpreter that SEGS_QUANTIZER_PYTHON names."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from build_engines import TargetOptions, build
from build_engines.attention import PLAIN
from build_engines.errors import BuildError, QualityError
from build_engines.formats import open_checkpoint
from build_engines.graph import write_graph
from build_engines.options import QualityLimits, QuantizeOptions
from build_engines.pipeline import open_pipeline
from build_engines.quantize import open_quantizer, toolkit
from build_engines.quantize.structure import check_structure
from build_engines.targets.onnx import OnnxTarget
from pipelines.descriptor import Quantization
from runners.onnx_session import SessionSettings, open_session
from tests.conftest import CHECKPOINTS, CONTROLNET
from tests.tensorrt.rtx import MEMORIES_GB, build_ahead

pytestmark = pytest.mark.quantize

SD15 = CHECKPOINTS / "sd15"
ANY = QualityLimits(10, 10, 255)
STORED = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter that has ModelOpt."""
    named = os.environ.get("SEGS_QUANTIZER_PYTHON")
    if not named:
        pytest.skip("SEGS_QUANTIZER_PYTHON names no interpreter; see docs/quantization.md")
    try:
        toolkit.modelopt_version(Path(named))
    except BuildError as error:
        pytest.skip(str(error))
    return Path(named)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was recorded for one mode goes for the others."""
    return tmp_path_factory.mktemp("calibration")


def options(
    mode: Quantization, python: Path, folder: Path, limits: QualityLimits = ANY
) -> QuantizeOptions:
    return QuantizeOptions(mode, folder, python, rows=24, side=128, steps=3, limits=limits)


@pytest.mark.parametrize("mode", ["int8", "fp8"])
def test_a_pipeline_for_onnxruntime(
    mode: Quantization, python: Path, folder: Path, tmp_path: Path
) -> None:
    target = TargetOptions(quantize=options(mode, python, folder))
    descriptor = build(SD15, "sd15", tmp_path, target)
    assert descriptor.quantization == mode
    assert descriptor.quality is not None
    assert 1e-3 < descriptor.quality.network_error < 0.6
    model = tmp_path / "sd15_unet" / "1" / "model.onnx"
    assert sorted(path.name for path in model.parent.iterdir()) == [
        "model.onnx",
        "model.onnx.data",
    ]
    linear = check_structure(model, mode)
    assert linear["Conv"][0] >= 20
    assert linear["MatMul"][0] == 40  # all but the two products of each of 8 attentions
    assert linear["Gemm"][0] == 0  # what the timestep goes through

    # As the config says that it is served: latents and texts of any size.
    level = -1 if mode == "fp8" else 0
    assert ("level: -1" in (tmp_path / "sd15_unet" / "config.pbtxt").read_text()) == (level == -1)
    session = open_session(model, settings=SessionSettings(level=level))
    width = descriptor.context_dim
    for height, across, tokens in ((19, 24, 77), (32, 13, 154)):
        inputs = {
            "sample": np.ones((2, 4, height, across), np.float32),
            "timestep": np.full((2, 1), 500, np.float32),
            "encoder_hidden_states": np.ones((2, tokens, width), np.float32),
        }
        assert session.run(inputs)["out_sample"].shape == (2, 4, height, across)


def test_limits_that_noise_cannot_keep_refuse_it(
    python: Path, folder: Path, tmp_path: Path
) -> None:
    limits = QualityLimits(picture_difference=1e-6)
    target = TargetOptions(quantize=options("int8", python, folder, limits))
    with pytest.raises(QualityError, match="picture_difference"):
        build(SD15, "sd15", tmp_path, target)
    assert list(tmp_path.iterdir()) == []
    assert "refused" in (folder / "quantization-int8.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("mode", ["int8", "fp8"])
def test_a_graph_for_engines(
    mode: Quantization, python: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Float16 with plain attention, and a ControlNet's residuals: strongly typed throughout, and
    taken by a builder of engines."""
    controlnets = {CONTROLNET: CHECKPOINTS / CONTROLNET}
    pipeline = open_pipeline("sd15", open_checkpoint(SD15), controlnets)
    folder = tmp_path_factory.getbasetemp() / "calibration_controlled"
    quantizer = open_quantizer(
        options(mode, python, folder), OnnxTarget("fp16"), pipeline.unet, controlnets
    )
    quantizer.reference = build(SD15, "sd15", quantizer.repository, controlnets=controlnets)
    pipeline.unet.rewrite = quantizer
    path, _ = write_graph(
        *(pipeline.unet, pipeline.checkpoint, tmp_path, lambda stage: None),
        precision="fp16",
        attention=PLAIN,
    )
    assert quantizer.report is not None
    assert quantizer.report.quality.network_error < 0.6
    graph = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(path)
    assert {each.domain for each in graph.opset_import} == {""}
    assert {each.version for each in graph.opset_import} == {19}
    types = {each.name: each.data_type for each in graph.graph.initializer}
    pairs = Counter(
        (node.op_type, types[node.input[1]], types[node.input[2]])
        for node in graph.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    )
    half = onnx.TensorProto.FLOAT16
    assert pairs.keys() == {
        ("QuantizeLinear", half, STORED[mode]),
        ("DequantizeLinear", half, STORED[mode]),
    }
    axes = {dim.dim_param for each in graph.graph.input for dim in each.type.tensor_type.shape.dim}
    assert {"height", "width", "sequence", "mid_residual_h"} <= axes
    build_ahead(pipeline.unet, path, "fp16", MEMORIES_GB[1], tmp_path / "model.plan")
