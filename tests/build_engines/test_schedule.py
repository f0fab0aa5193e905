"""Which schedulers of a diffusers folder are taken: those of the noise that is sampled here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import schedulers

from build_engines.checkpoint import DiffusersFolder
from build_engines.errors import BuildError, CheckpointError
from build_engines.formats import open_checkpoint
from build_engines.pipeline import open_pipeline
from build_engines.schedule import (
    DISCRETE_SCHEDULERS,
    EDM_SCHEDULERS,
    read_prediction,
    read_schedule,
)
from pipelines.descriptor import EdmSchedule, Schedule
from sampling.schedule import DiscreteSchedule
from tests.build_engines.conftest import edit, make_sd2

CONFIG = "scheduler/scheduler_config.json"
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ALL = {name for name in dir(schedulers) if name.endswith("Scheduler")}
OTHERS = sorted({*ALL, "OfTomorrowScheduler"} - {*DISCRETE_SCHEDULERS, *EDM_SCHEDULERS})


def saved(name: str, folder: Path, **values: Any) -> dict[str, Any]:
    """The configuration that a scheduler of diffusers saves."""
    getattr(diffusers, name)(**values).save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "scheduler_config.json").read_text())
    return config


@pytest.mark.parametrize("name", DISCRETE_SCHEDULERS)
def test_a_discrete_scheduler_is_taken_as_what_diffusers_makes_of_it(
    tmp_path: Path, name: str
) -> None:
    config = saved(name, tmp_path, **BETAS, prediction_type="v_prediction")
    assert read_schedule(config) == Schedule()
    assert read_prediction(config) == "v_prediction"
    made = getattr(diffusers, name).from_config(config)
    ours = 1 / (1 + DiscreteSchedule.of(read_schedule(config)).sigmas ** 2)
    torch.testing.assert_close(ours, made.alphas_cumprod, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "name", sorted({*ALL, "OfTomorrowScheduler"} - {*DISCRETE_SCHEDULERS, *EDM_SCHEDULERS})
)
def test_every_other_scheduler_is_refused_by_name(name: str) -> None:
    config = {"_class_name": name, **BETAS, "prediction_type": "epsilon"}
    with pytest.raises(CheckpointError, match=f"_class_name '{name}'.*allowed: DDIMScheduler"):
        read_schedule(config)


@pytest.mark.parametrize("name", DISCRETE_SCHEDULERS)
def test_an_absent_field_means_what_it_means_in_diffusers(name: str) -> None:
    """Where the class's default is not Stable Diffusion's schedule, that is refused."""
    default = getattr(diffusers, name)().config
    if default.beta_schedule == "scaled_linear":
        assert read_schedule({"_class_name": name}) == Schedule()
        return
    with pytest.raises(CheckpointError, match=r"beta_schedule 'linear'.*allowed: scaled_linear"):
        read_schedule({"_class_name": name})
    betas = Schedule(beta_start=default.beta_start, beta_end=default.beta_end)
    assert read_schedule({"_class_name": name, "beta_schedule": "scaled_linear"}) == betas


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beta_schedule", "linear"),
        ("beta_schedule", "squaredcos_cap_v2"),
        ("trained_betas", [0.1, 0.2]),
        ("timestep_type", "continuous"),
        ("use_flow_sigmas", True),
        ("sigma_data", 0.5),
        ("snr_shift_scale", 3.0),
        ("prediction_type", "flow_prediction"),
    ],
)
@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", None])
def test_a_field_of_other_noise_is_named(name: str | None, field: str, value: object) -> None:
    config = {**BETAS, field: value} | ({"_class_name": name} if name else {})
    owner = f".* of {name} is not" if name else ""
    with pytest.raises(CheckpointError, match=rf"scheduler_config\.json: {field} {owner}"):
        read_schedule(config)


def test_the_folder_of_a_refused_schedule_is_named(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"^{tmp_path}: scheduler/scheduler_config"):
        DiffusersFolder(tmp_path).schedule()


def test_other_betas_are_sampled_as_they_are() -> None:
    config = {**BETAS, "beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 500}
    assert read_schedule(config) == Schedule(beta_start=0.001, beta_end=0.02, timesteps=500)


@pytest.mark.parametrize(
    "values",
    [
        {"beta_start": -1.0},
        {"beta_start": 0.0},
        {"beta_start": float("nan")},
        {"beta_end": 5.0},
        {"beta_end": 0.99},
        {"num_train_timesteps": 10**9},
    ],
    ids=str,
)
def test_betas_without_noise_levels_are_refused(values: dict[str, float]) -> None:
    """By a σ that is NaN, 0 or infinite, or falls."""
    with pytest.raises(CheckpointError, match=rf"{next(iter(values))} .* allowed: betas between"):
        read_schedule({**BETAS, **values})


def test_zero_terminal_snr_is_read() -> None:
    config = {**BETAS, "rescale_betas_zero_snr": True}
    assert read_schedule(config) == Schedule(zero_terminal_snr=True)


EDM = {"sigma_data": 1.0, "prediction_type": "v_prediction"}


@pytest.mark.parametrize("name", EDM_SCHEDULERS)
@pytest.mark.parametrize("ends", [{}, {"sigma_min": 0.01, "sigma_max": 500.0}], ids=str)
def test_continuous_noise_is_taken(tmp_path: Path, name: str, ends: dict[str, float]) -> None:
    config = saved(name, tmp_path, **EDM, **ends)
    default = getattr(diffusers, name)().config
    found = ends or {"sigma_min": default.sigma_min, "sigma_max": default.sigma_max}
    assert read_schedule(config) == EdmSchedule(**found)
    assert read_prediction(config) == "v_prediction"


@pytest.mark.parametrize("name", EDM_SCHEDULERS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sigma_data": 0.5}, r"sigma_data 0\.5 .* allowed: 1\.0"),
        ({"prediction_type": "epsilon"}, "prediction_type 'epsilon' .* allowed: v_prediction"),
        ({"sigma_min": 0.0}, "allowed: 0 < sigma_min < sigma_max"),
        ({"sigma_min": 200.0}, "sigma_min 200 and sigma_max 80"),
        ({"sigma_max": float("inf")}, "sigma_max inf"),
        ({"sigma_max": 1e300}, "sigma_max 1e\\+300; allowed: .* finite and apart in float32"),
        ({"sigma_min": 1e-300}, "sigma_min 1e-300"),
        ({"sigma_min": 1.0, "sigma_max": 1 + 1e-12}, "sigma_min 1 and sigma_max 1"),
    ],
)
def test_other_continuous_noise_is_refused(
    name: str, values: dict[str, object], message: str
) -> None:
    """Of Playground 2.5, whose network predicts otherwise, among it; or no range."""
    with pytest.raises(CheckpointError, match=message):
        read_schedule({"_class_name": name, **EDM, **values})


def test_an_absent_spread_is_the_one_of_diffusers_and_refused() -> None:
    with pytest.raises(CheckpointError, match=r"sigma_data 0\.5"):
        read_schedule({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"})


def test_continuous_noise_has_no_other_prediction(checkpoint: Path) -> None:
    (checkpoint / CONFIG).write_text(json.dumps({"_class_name": "EDMEulerScheduler", **EDM}))
    opened = open_checkpoint(checkpoint)
    assert open_pipeline("x", opened, {}).prediction == "v_prediction"
    with pytest.raises(BuildError, match=r"prediction: 'epsilon' .* allowed: v_prediction"):
        open_pipeline("x", opened, {}, "epsilon")


@pytest.mark.parametrize("value", ["sample", "trigflow", 1])
def test_another_prediction_is_refused(value: object) -> None:
    with pytest.raises(CheckpointError, match=f"prediction_type {value!r}.*epsilon, v_prediction"):
        read_prediction({**BETAS, "prediction_type": value})


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 1.0}, "v_prediction"),  # of epsilon
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "epsilon"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, **BETAS}, "epsilon"),
    ],
)
def test_prediction_does_not_overrule_another_kind_of_noise(
    checkpoint: Path, config: dict[str, object], option: Any
) -> None:
    (checkpoint / CONFIG).write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="other noise levels"):
        open_pipeline("x", open_checkpoint(checkpoint), {}, option)


def test_prediction_overrules_an_unknown_one(checkpoint: Path) -> None:
    edit(checkpoint / CONFIG, prediction_type="sample")
    opened = open_checkpoint(checkpoint)
    assert open_pipeline("x", opened, {}, "epsilon").prediction == "epsilon"
    with pytest.raises(CheckpointError, match="prediction_type 'sample'"):
        open_pipeline("x", opened, {})


@pytest.mark.parametrize(
    ("declared", "option", "warned"),
    [(None, None, True), ("epsilon", None, False), (None, "v_prediction", False)],
)
def test_sd2_that_declares_no_prediction_is_warned_of(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    declared: str | None,
    option: Any,
    warned: bool,
) -> None:
    folder = make_sd2(tmp_path / "sd2")
    (folder / CONFIG).write_text(
        json.dumps({**BETAS, **({"prediction_type": declared} if declared else {})})
    )
    pipeline = open_pipeline("x", open_checkpoint(folder), {}, option)
    assert pipeline.prediction == (option or "epsilon")
    assert ("--prediction v_prediction" in caplog.text) is warned
