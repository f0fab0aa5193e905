"""Continuous noise levels, CosXL's: against diffusers' EDM schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from diffusers import EDMEulerScheduler

from pipelines import EdmSchedule, PipelineDescriptor, Schedule
from sampling.masks import MaskSchedule
from sampling.noise import brownian_tree, step_noise
from sampling.program import NetworkCall, Tensors, run_alone
from sampling.samplers import SAMPLERS, Prediction, Run
from sampling.schedule import ContinuousSchedule, DiscreteSchedule
from sampling.schedulers import SCHEDULERS, run_levels
from sampling.unet import RunInputs, TextRows, UNet
from tests.descriptors import bare_pipeline
from tests.sampling.analytic import denoise

COSXL = EdmSchedule(sigma_min=0.002, sigma_max=120.0)
SCHEDULE = DiscreteSchedule.of(COSXL)
LATENT = (1, 4, 6, 5)
TABLES = {"AYS SDXL", "AYS SD1", "AYS SVD", "GITS[coeff=1.2]"}
"""Schedulers that are lists of σ, whatever the model's."""
_EDM: Any = EDMEulerScheduler  # diffusers' classes are not typed


def edm(steps: int, curve: str = "karras") -> Any:
    scheduler = _EDM(
        sigma_min=COSXL.sigma_min,
        sigma_max=COSXL.sigma_max,
        sigma_data=1.0,
        sigma_schedule=curve,
        prediction_type="v_prediction",
    )
    scheduler.set_timesteps(steps)
    return scheduler


def network(call: NetworkCall) -> Tensors:
    """A smooth function of all that the network is given."""
    sample, timestep = call.inputs["sample"], call.inputs["timestep"]
    return {"out_sample": torch.tanh(0.7 * sample + timestep[:, :, None, None]) - 0.2 * sample}


def unet() -> UNet:
    return UNet("unet", "v_prediction", SCHEDULE)


INPUTS = RunInputs.of(TextRows(torch.zeros(1, 77, 2)), (), None)


def test_the_table_spans_the_range_at_equal_ratios() -> None:
    assert isinstance(SCHEDULE, ContinuousSchedule)
    assert SCHEDULE.sigma_min == pytest.approx(0.002)
    assert SCHEDULE.sigma_max == pytest.approx(120.0)
    steps = SCHEDULE.sigmas.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=0)


def test_equal_descriptors_share_a_schedule_and_others_do_not() -> None:
    assert DiscreteSchedule.of(COSXL.model_copy()) is SCHEDULE
    assert not isinstance(DiscreteSchedule.of(Schedule()), ContinuousSchedule)


@pytest.mark.parametrize("sigma", [0.002, 0.0123, 0.5, 1.0, 14.6, 119.0, 120.0, 1000.0])
def test_the_network_is_given_the_noise_input_of_diffusers(sigma: float) -> None:
    expected = float(edm(4).precondition_noise(sigma))
    assert SCHEDULE.timestep(sigma) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    calls: list[NetworkCall] = []

    def noted(call: NetworkCall) -> Tensors:
        calls.append(call)
        return network(call)

    run_alone(unet().denoise(torch.zeros(LATENT), sigma, INPUTS), noted)
    (given,) = calls
    torch.testing.assert_close(given.inputs["timestep"], torch.full((1, 1), expected))


@pytest.mark.parametrize("sigma", [0.0, 1e-5])
def test_below_the_range_is_its_least_level(sigma: float) -> None:
    assert SCHEDULE.timestep(sigma) == SCHEDULE.timestep(SCHEDULE.sigma_min)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 1.0, 14.6, 120.0])
def test_input_and_prediction_are_those_of_diffusers(sigma: float) -> None:
    scheduler = edm(4)
    x = sigma * torch.randn(LATENT, generator=torch.Generator().manual_seed(1))
    given = scheduler.precondition_inputs(x, sigma)
    time = torch.full((1, 1), float(scheduler.precondition_noise(sigma)))
    output = network(NetworkCall("unet", {"sample": given, "timestep": time}, {}))["out_sample"]
    found = run_alone(unet().denoise(x, sigma, INPUTS), network)
    torch.testing.assert_close(found, scheduler.precondition_outputs(x, output, sigma))


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50])
@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_levels_are_those_of_diffusers(name: str, steps: int) -> None:
    if steps == 1:  # where diffusers' curve has its cleaner end alone
        assert SCHEDULERS[name](1, SCHEDULE).tolist() == pytest.approx([120.0, 0.0])
        return
    levels = edm(steps, name).sigmas
    torch.testing.assert_close(SCHEDULERS[name](steps, SCHEDULE), levels, rtol=2e-4, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 40, 1000])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_falls_within_the_range(name: str, steps: int) -> None:
    levels = SCHEDULERS[name](steps, SCHEDULE)
    assert levels[-1] == 0
    assert levels.isfinite().all()
    assert (levels.diff() <= 0).all()
    if steps < 100:  # beyond, two may be equal by rounding
        assert (levels.diff() < 0).all()
    if name not in TABLES:
        assert SCHEDULE.sigma_min * 0.999 <= levels[-2]
        assert levels[0] <= SCHEDULE.sigma_max * 1.001


@pytest.mark.parametrize("name", ["simple", "sgm_uniform", "karras", "exponential", "normal"])
def test_a_schedule_begins_at_the_largest_level(name: str) -> None:
    assert float(SCHEDULERS[name](20, SCHEDULE)[0]) == pytest.approx(120.0, rel=1e-5)


@pytest.mark.parametrize("name", ["simple", "sgm_uniform", "normal", "ddim_uniform"])
def test_equal_distances_in_time_are_equal_ratios(name: str) -> None:
    ratios = SCHEDULERS[name](20, SCHEDULE)[:-1].log().diff()
    torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), rtol=2e-2, atol=0)


@pytest.mark.parametrize(("percent", "expected"), [(0.0, math.inf), (1.0, 0.0)])
def test_percent_has_open_ends(percent: float, expected: float) -> None:
    assert SCHEDULE.sigma_at_percent(percent) == expected


def test_half_of_the_sampling_is_half_of_the_ratios() -> None:
    assert SCHEDULE.sigma_at_percent(0.5) == pytest.approx(math.sqrt(0.002 * 120), rel=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_over_the_range(name: str) -> None:
    """On data of spread 1, whose exact denoiser is known, it ends near the data."""
    start = 120 * torch.randn(LATENT, generator=torch.Generator().manual_seed(3))
    tools = Run(
        noise=step_noise(0, start.shape),
        brownian=lambda low, high: brownian_tree(0, start, low, high),
        span=(SCHEDULE.sigma_min, SCHEDULE.sigma_max),
        schedule=SCHEDULE,
    )
    sigmas = SCHEDULERS["karras"](40, SCHEDULE).tolist()
    end = _end(name, start, sigmas, tools, lambda x, sigma: denoise(x, sigma, 1.0))
    assert end.isfinite().all()
    assert 0.5 < float(end.std()) < 2.0


@pytest.mark.parametrize("steps", [2, 8, 20])
def test_a_run_of_euler_is_that_of_diffusers(steps: int) -> None:
    noise = torch.randn(LATENT, generator=torch.Generator().manual_seed(2))
    scheduler = edm(steps)
    x = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        given = scheduler.scale_model_input(x, time)
        call = NetworkCall("unet", {"sample": given, "timestep": time.reshape(1, 1)}, {})
        x = scheduler.step(network(call)["out_sample"], time, x, return_dict=False)[0]
    levels = run_levels(SCHEDULERS["karras"], steps, 1.0, SCHEDULE, discard_penultimate=False)
    start = noise * scheduler.init_noise_sigma
    tools = Run(step_noise(0, x.shape), lambda low, high: brownian_tree(0, x, low, high),
                levels.span, SCHEDULE)  # fmt: skip
    found = _end(
        *("euler", start, levels.sigmas, tools),
        lambda x, sigma: run_alone(unet().denoise(x, sigma, INPUTS), network),
    )
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


def _end(
    sampler: str,
    x: torch.Tensor,
    sigmas: list[float],
    tools: Run,
    model: Callable[[torch.Tensor, float], torch.Tensor],
) -> torch.Tensor:
    """The sampler's own end, without guidance."""
    steps = SAMPLERS[sampler].steps(x, sigmas, tools)
    question = next(steps)
    while True:
        denoised = model(question.x, question.sigma)
        try:
            question = steps.send(Prediction(denoised, denoised))
        except StopIteration as end:
            return cast(torch.Tensor, end.value)


def test_differential_diffusion_goes_by_log_sigma() -> None:
    sigmas = [120.0, 10.0, 1.0, 0.002, 0.0]
    mask = MaskSchedule.of_run(SCHEDULE, sigmas)
    thresholds = [mask.threshold(sigma) for sigma in sigmas[:-1]]
    assert thresholds[0] == 1.0
    assert thresholds[-1] == pytest.approx(0.0, abs=1e-6)
    assert thresholds[1] == pytest.approx(math.log(10 / 0.002) / math.log(120 / 0.002), rel=1e-5)


def test_a_descriptor_keeps_it() -> None:
    descriptor = bare_pipeline(prediction="v_prediction", schedule=COSXL)
    again = PipelineDescriptor.model_validate_json(descriptor.model_dump_json())
    assert again.schedule == COSXL
    assert bare_pipeline().schedule == Schedule()
    for plain in (Schedule(), Schedule(zero_terminal_snr=True)):
        text = bare_pipeline(schedule=plain).model_dump_json()
        assert PipelineDescriptor.model_validate_json(text).schedule == plain
