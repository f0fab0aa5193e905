"""Differences, the report and its limits, and builds that are refused or accepted by them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

from build_engines import TargetOptions, build
from build_engines.errors import BuildError, QualityError
from build_engines.options import QualityLimits, QuantizeOptions
from build_engines.quantize import open_quantizer, quantizer, toolkit
from build_engines.quantize.compare import difference, judge
from build_engines.quantize.report import (
    QualityReport,
    RequestQuality,
    StepQuality,
    as_markdown,
    summary,
    violations,
)
from build_engines.quantize.runs import Redrawn
from build_engines.quantize.structure import check_structure
from build_engines.quantize.workload import CalibrationRequest
from build_engines.targets.onnx import OnnxTarget
from networks import Unet
from pipelines.descriptor import EngineSpec, Quality, load_all
from tests.build_engines.conftest import snapshot
from tests.conftest import CHECKPOINTS

SD15 = CHECKPOINTS / "sd15"


def request_quality(latent_error: float, picture_mean: float) -> RequestQuality:
    return RequestQuality(
        name="a.png",
        prompt="a cat",
        denoise=0.5,
        latent_shape=(1, 4, 19, 24),
        latent_error=latent_error,
        latent_cosine=0.99,
        picture_mean=picture_mean,
        picture_max=31,
        picture_psnr_db=30.0,
    )


STEPS = (
    StepQuality(timesteps=(0, 100), rows=1, error_mean=0.1, error_max=0.1, cosine_min=0.9),
    StepQuality(timesteps=(100, 200), rows=3, error_mean=0.3, error_max=0.4, cosine_min=0.8),
)
REQUESTS = (request_quality(0.1, 3.0), request_quality(0.3, 2.0))


def test_a_difference_is_relative() -> None:
    a = np.array([3.0, 4.0], np.float32)
    assert difference(a, a) == pytest.approx((0, 1))
    assert difference(1.1 * a, a) == pytest.approx((0.1, 1))
    assert difference(np.array([-4.0, 3.0]), a) == pytest.approx((math.sqrt(2), 0))
    assert difference(0 * a, 0 * a) == (0, 0)


def test_pictures_are_compared_within_the_box() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    request = CalibrationRequest("x", picture, (2, 2, 6, 6), {"prompt": "", "denoise": 1.0})
    latent = np.ones((1, 4, 1, 1), np.float32)
    other = picture.copy()
    other[0, 0] = 255  # outside
    same = judge(request, Redrawn(latent, other), Redrawn(latent, picture))
    assert (same.picture_mean, same.picture_max, same.picture_psnr_db) == (0, 0, 99)
    other[2, 2] = 16
    found = judge(request, Redrawn(latent, other), Redrawn(latent, picture))
    assert (found.picture_mean, found.picture_max) == (1, 16)
    assert found.picture_psnr_db == pytest.approx(10 * math.log10(255**2 / 16))


def test_the_worst_request_counts() -> None:
    quality = summary(STEPS, REQUESTS)
    assert quality.network_error == pytest.approx(0.25)
    assert (quality.latent_error, quality.picture_difference) == (0.3, 3.0)


def test_what_is_beyond_a_limit_is_named() -> None:
    quality = Quality(network_error=0.1, latent_error=float("nan"), picture_difference=6)
    found = violations(quality, QualityLimits(picture_difference=5.5))
    assert len(found) == 2
    assert found[0].startswith("latent_error nan is more than")
    assert found[1] == "picture_difference 6 is more than 5.5"
    assert len(violations(quality, QualityLimits(1, float("inf"), 7))) == 1


def test_the_page_has_every_figure() -> None:
    report = QualityReport(
        pipeline="p",
        quantization="fp8",
        precision="fp16",
        modelopt="1.2",
        onnxruntime="3.4",
        calibration_rows=7,
        linear={"Conv": (20, 33)},
        steps=STEPS,
        requests=REQUESTS,
        limits=asdict(QualityLimits()),
        violations=("latent_error 0.3 is more than 0.2",),
    )
    page = as_markdown(report)
    for text in (
        *("refused: latent_error 0.3 is more than 0.2", "20 of 33 Conv", "7 inputs"),
        *("| latent error | 0.3000 | 0.2 |", "| 100–199 | 3 | 0.3000, 0.4000 | 0.80000 |"),
        "| a.png, “a cat” | 0.5 | 19×24 | 0.1000, 0.99000 | 3.00, 31 | 30.0 dB |",
    ):
        assert text in page
    assert QualityReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": 0}, "at least 1"),
        ({"side": 20}, "64 to 2048"),
        ({"mode": "int3"}, "int8, fp8"),
    ],
)
def test_options_out_of_range_are_refused(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    options: dict[str, object] = {"mode": "int8", "folder": tmp_path, **values}
    with pytest.raises(BuildError, match=message):
        QuantizeOptions(**options)  # type: ignore[arg-type]


def test_limits_are_more_than_0() -> None:
    with pytest.raises(BuildError, match="max_latent_error"):
        QualityLimits(latent_error=0)


def test_float16_on_a_cpu_is_refused(tmp_path: Path) -> None:
    options = QuantizeOptions("int8", tmp_path)
    with pytest.raises(BuildError, match="precision fp16 for onnx; allowed: fp32"):
        TargetOptions("onnx", "fp16", quantize=options)
    assert TargetOptions("tensorrt", "fp16", quantize=options).quantize == options
    with pytest.raises(BuildError, match="with refit"):
        TargetOptions("tensorrt", refit=True, quantize=options)


def test_fp8_needs_a_gpu_that_has_it(tmp_path: Path, scaled: Change) -> None:
    unet = Unet(json.loads((SD15 / "unet" / "config.json").read_text()))
    for capability in ("8.6", "7.5"):
        engine = EngineSpec(tensorrt="10", gpu="A10", compute_capability=capability)
        with pytest.raises(BuildError, match=f"A10 has compute capability {capability}; .* 8.9"):
            open_quantizer(
                QuantizeOptions("fp8", tmp_path), OnnxTarget("fp16", engine=engine), unet, ()
            )
    engine = EngineSpec(tensorrt="10", gpu="L4", compute_capability="12.0")
    target = OnnxTarget("fp16", engine=engine)
    opened = open_quantizer(QuantizeOptions("fp8", tmp_path), target, unet, ("b", "a"))
    assert opened.precision == "fp16"
    assert (opened.workload.side, opened.workload.controlnets) == (512, ["a", "b"])


def test_an_interpreter_without_modelopt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot be run"):
        toolkit.modelopt_version(tmp_path / "python")
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\nexit 9\n")
    bare.chmod(0o755)
    with pytest.raises(BuildError, match=r"docs/quantization\.md"):
        toolkit.modelopt_version(bare)


def test_a_failure_of_modelopt_is_told_and_changes_nothing(plain: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(plain / "sd15_unet" / "1", tmp_path / "model"), "model.onnx")
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho no such operator >&2\nexit 3\n")
    failing.chmod(0o755)
    before = snapshot(model.parent)
    with pytest.raises(BuildError, match=r"ModelOpt failed \(3\)(.|\n)*no such operator"):
        toolkit.quantize_graph(failing, model, "int8", tmp_path, tmp_path / "log.txt")
    assert snapshot(model.parent) == before
    with pytest.raises(BuildError, match="the graph has no int8"):
        check_structure(model, "int8")


Change = Callable[[float], None]


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Change:
    """In the place of ModelOpt: scales the weights of the last convolution."""

    def replace(factor: float) -> None:
        def quantize_graph(python: Path, model: Path, mode: str, rows: Path, log: Path) -> None:
            assert list(rows.glob("*.npz"))
            graph = onnx.load(model)
            for tensor in graph.graph.initializer:
                if "conv_out.weight" in tensor.name:
                    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
                    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            onnx.save(graph, model)

        monkeypatch.setattr(quantizer, "quantize_graph", quantize_graph)

    monkeypatch.setattr(quantizer, "modelopt_version", lambda python: "0.0")
    monkeypatch.setattr(quantizer, "check_structure", lambda model, mode: {"Conv": (1, 2)})
    return replace


def test_limits_decide_and_a_refusal_leaves_the_old_build(
    plain: Path, built: Path, tmp_path: Path, scaled: Change
) -> None:
    folder = tmp_path / "calibration"
    shutil.copytree(plain, folder / "reference")
    options = QuantizeOptions("int8", folder, rows=5, side=128, steps=2)
    target = TargetOptions(quantize=options)
    before = snapshot(built)
    scaled(3.0)
    with pytest.raises(QualityError, match=r"network_error .* more than 0\.15"):
        build(SD15, "sd15", built, target)
    assert snapshot(built) == before
    refused = json.loads((folder / "quantization-int8.json").read_text())
    assert refused["violations"]
    assert "refused" in (folder / "quantization-int8.md").read_text(encoding="utf-8")

    scaled(1.001)
    descriptor = build(SD15, "sd15", built, target)
    assert descriptor.quantization == "int8"
    assert descriptor.quality is not None
    assert 5e-4 < descriptor.quality.network_error < 2e-3
    accepted = QualityReport.model_validate_json(
        (built / "sd15_unet" / "quantization.json").read_bytes()
    )
    assert accepted.quality == descriptor.quality
    assert accepted.violations == ()
    assert accepted.calibration_rows == 5
    assert "sd15_unet/quantization.md" in descriptor.networks["unet"].files
    assert load_all([built])["sd15"][0] == descriptor
    assert build(SD15, "sd15", built, target) == descriptor  # unchanged
