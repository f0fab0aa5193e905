"""What a single file declares about its diffusion, by keys and in its metadata."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from build_engines.errors import BuildError, CheckpointError
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from pipelines.descriptor import EdmSchedule, Schedule
from sampling.schedule import DiscreteSchedule
from tests.build_engines.single_files import single_file_tensors
from tests.conftest import CHECKPOINTS

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return single_file_tensors(CHECKPOINTS / "sd15", "sd1")


def written(path: Path, tensors: Tensors, **metadata: str) -> Path:
    save_file(tensors, path, {"format": "pt", **metadata})
    return path


MARK = torch.zeros(0)
STATEMENTS: list[tuple[tuple[str, ...], dict[str, str], str | None, bool]] = [
    ((), {}, None, False),
    (("v_pred",), {}, "v_prediction", False),
    (("ztsnr",), {}, "v_prediction", True),
    (("v_pred", "ztsnr"), {}, "v_prediction", True),
    ((), {"modelspec.prediction_type": "v"}, "v_prediction", False),
    ((), {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
    ((), {"modelspec.predict_key": "v"}, "v_prediction", False),
    ((), {"modelspec.predict_key": "epsilon"}, "epsilon", False),
    ((), {"modelspec.predict_key": " V-Prediction"}, "v_prediction", False),
    ((), {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", False),
    ((), {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon", False),
    ((), {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, None, False),
    ((), {"ss_v_parameterization": "True"}, "v_prediction", False),
    ((), {"ss_v_parameterization": "false"}, "epsilon", False),
    ((), {"ss_v_parameterization": "None"}, None, False),
    ((), {"ss_v2": "True"}, None, False),
    ((), {"ss_zero_terminal_snr": "True", "ss_v_parameterization": "True"}, "v_prediction", True),
    ((), {"ss_zero_terminal_snr": "False"}, None, False),
    # Keys are set on purpose, metadata is often that of the parent.
    (("v_pred",), {"modelspec.prediction_type": "epsilon"}, "v_prediction", False),
    (("v_pred",), {"modelspec.prediction_type": "other"}, "v_prediction", False),
]


@pytest.mark.parametrize(("keys", "metadata", "prediction", "zero_snr"), STATEMENTS)
def test_prediction_and_zero_snr_are_read(
    tmp_path: Path,
    tensors: Tensors,
    keys: tuple[str, ...],
    metadata: dict[str, str],
    prediction: str | None,
    zero_snr: bool,
) -> None:
    marks = dict.fromkeys(keys, MARK)
    opened = open_checkpoint(written(tmp_path / "m.safetensors", {**tensors, **marks}, **metadata))
    assert opened.prediction() == prediction
    assert opened.schedule() == Schedule(zero_terminal_snr=zero_snr)
    assert open_pipeline("x", opened, {}).prediction == (prediction or "epsilon")


@pytest.mark.parametrize("key", ["modelspec.prediction_type", "modelspec.predict_key"])
@pytest.mark.parametrize("value", ["edm", "rectified flow", "x0", ""])
def test_an_unknown_prediction_is_refused_unless_it_is_overruled(
    tmp_path: Path, tensors: Tensors, key: str, value: str
) -> None:
    opened = open_checkpoint(written(tmp_path / "m.safetensors", tensors, **{key: value}))
    with pytest.raises(CheckpointError, match=f"{key} '{value}'.*allowed: epsilon, v.*--predict"):
        open_pipeline("x", opened, {})
    assert open_pipeline("x", opened, {}, "v_prediction").prediction == "v_prediction"


def test_metadata_that_contradicts_itself_is_refused_unless_it_is_overruled(
    tmp_path: Path, tensors: Tensors
) -> None:
    metadata = {"modelspec.prediction_type": "epsilon", "ss_v_parameterization": "True"}
    opened = open_checkpoint(written(tmp_path / "m.safetensors", tensors, **metadata))
    with pytest.raises(CheckpointError) as refused:
        open_pipeline("x", opened, {})
    for text in ("modelspec.prediction_type 'epsilon'", "ss_v_parameterization", "--prediction"):
        assert text in str(refused.value)
    assert open_pipeline("x", opened, {}, "epsilon").prediction == "epsilon"


@pytest.mark.parametrize("keys", [("edm_mean", "edm_std"), ("edm_eps.x",), ("edm_vpred.rho",)])
def test_noise_of_another_kind_is_refused_by_its_key(
    tmp_path: Path, tensors: Tensors, keys: tuple[str, ...]
) -> None:
    marks = {key: torch.tensor(120.0) for key in keys}
    path = written(tmp_path / "m.safetensors", {**tensors, **marks})
    with pytest.raises(CheckpointError, match=rf"{keys[0]} says .* discrete schedule, and CosXL"):
        open_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"sigma_max": 120.0, "sigma_min": 0.002}, (0.002, 120.0)),
        ({"sigma_max": 500.0, "sigma_min": 0.01}, (0.01, 500.0)),
        ({"sigma_max": 120.0}, (0.002, 120.0)),
        ({"sigma_min": 0.01}, (0.01, 120.0)),
    ],
)
def test_cosxl_is_taken_by_its_keys(
    tmp_path: Path,
    tensors: Tensors,
    dtype: torch.dtype,
    keys: dict[str, float],
    expected: tuple[float, float],
) -> None:
    marks = {f"edm_vpred.{key}": torch.tensor(value).to(dtype) for key, value in keys.items()}
    opened = open_checkpoint(written(tmp_path / "m.safetensors", {**tensors, **marks}))
    schedule = opened.schedule()
    assert isinstance(schedule, EdmSchedule)
    found = schedule.sigma_min, schedule.sigma_max
    assert found == pytest.approx(expected, rel=1e-3 if dtype == torch.float16 else 1e-6)
    assert open_pipeline("x", opened, {}).prediction == "v_prediction"
    with pytest.raises(BuildError, match="allowed: v_prediction"):
        open_pipeline("x", opened, {}, "epsilon")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(0), r"edm_vpred\.sigma_max has shape \[0\]"),
        (torch.ones(2), r"has shape \[2\]"),
        (torch.tensor(-1.0), "allowed: 0 < sigma_min < sigma_max"),
        (torch.tensor(float("nan")), r"m\.safetensors: edm_vpred\.sigma_max has values that"),
    ],
)
def test_noise_levels_of_cosxl_that_are_no_range_are_refused(
    tmp_path: Path, tensors: Tensors, value: torch.Tensor, message: str
) -> None:
    path = written(tmp_path / "m.safetensors", {**tensors, "edm_vpred.sigma_max": value})
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_a_stored_schedule_declares_zero_snr(
    tmp_path: Path, tensors: Tensors, dtype: torch.dtype, zero_snr: bool
) -> None:
    schedule = Schedule(zero_terminal_snr=zero_snr)
    stored = (1 / (1 + DiscreteSchedule.of(schedule).sigmas ** 2)).to(dtype)
    path = written(tmp_path / "m.safetensors", {**tensors, "alphas_cumprod": stored})
    assert open_checkpoint(path).schedule() == schedule


@pytest.mark.parametrize(
    "stored", [torch.linspace(1, 0, 1000), torch.ones(1000), torch.ones(500), torch.ones(())]
)
def test_another_stored_schedule_is_warned_of(
    tmp_path: Path, tensors: Tensors, caplog: pytest.LogCaptureFixture, stored: torch.Tensor
) -> None:
    """Merges leave nonsense there, so it is no reason to refuse the file."""
    path = written(tmp_path / "m.safetensors", {**tensors, "alphas_cumprod": stored})
    assert open_checkpoint(path).schedule() == Schedule()
    assert "alphas_cumprod is not that of the schedule" in caplog.text
