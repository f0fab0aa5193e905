"""Schedules against the reference's numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
import torch

from pipelines import Schedule
from sampling.schedule import DiscreteSchedule
from sampling.schedulers import SCHEDULERS, custom, noise_levels, run_levels, simple
from segs_client.contract import SchedulerFunc, SchedulerName
from tests.conftest import GOLDEN

SCHEDULE = DiscreteSchedule.of(Schedule())
ZERO_SNR = DiscreteSchedule.of(Schedule(zero_terminal_snr=True))
ZERO_SNR_LISTS = json.loads((GOLDEN / "zsnr_sigmas.json").read_text())


def reference_lists(lists: dict[str, list[float]]) -> dict[str, list[tuple[str, int, list[float]]]]:
    """scheduler → (mode, steps, σ) as the reference computed them."""
    by_name: dict[str, list[tuple[str, int, list[float]]]] = defaultdict(list)
    for key, sigmas in lists.items():
        name, mode, steps = key.split("|")
        by_name[name].append((mode, int(steps), sigmas))
    return by_name


def check(name: str, schedule: DiscreteSchedule, mode: str, steps: int, expected: Any) -> None:
    sigmas = noise_levels(SCHEDULERS[name], steps, schedule, discard_penultimate=mode != "full")
    levels = torch.tensor(expected)
    # kl_optimal divides 0 by 0 for one step in the reference; here it starts at the top.
    levels = torch.where(levels.isnan(), sigmas, levels)
    torch.testing.assert_close(sigmas, levels, rtol=1e-5, atol=0, msg=f"{name} {mode} {steps}")


@pytest.mark.parametrize("name", SCHEDULERS)
def test_levels_are_the_references(name: str) -> None:
    lists = reference_lists(json.loads((GOLDEN / "sigmas.json").read_text()))[name]
    assert len(lists) > 50
    for each in lists:
        check(name, SCHEDULE, *each)


@pytest.mark.parametrize("name", reference_lists(ZERO_SNR_LISTS["schedules"]))
def test_levels_with_zero_terminal_snr_are_the_references(name: str) -> None:
    lists = reference_lists(ZERO_SNR_LISTS["schedules"])[name]
    assert len(lists) >= 6
    for each in lists:
        check(name, ZERO_SNR, *each)


def test_the_schedule_with_zero_terminal_snr_is_the_references() -> None:
    assert ZERO_SNR.sigmas.tolist() == ZERO_SNR_LISTS["sigmas"]
    assert ZERO_SNR.sigma_max == ZERO_SNR_LISTS["sigma_max"] == 4518.763671875
    assert ZERO_SNR.timestep(ZERO_SNR.sigma_max) == ZERO_SNR_LISTS["timestep_of_sigma_max"]
    for percent, sigma in ZERO_SNR_LISTS["percent_to_sigma"].items():
        least = min(ZERO_SNR.sigma_at_percent(float(percent)), 999999999.9)  # for infinity
        assert least == pytest.approx(sigma, rel=1e-6)


def test_every_name_of_the_contract_is_there() -> None:
    assert set(SCHEDULERS) == set(SchedulerName.__args__)  # type: ignore[attr-defined]


def test_timestep_is_the_inverse_of_sigma() -> None:
    for t in (0, 1, 499, 998, 999):
        assert SCHEDULE.timestep(float(SCHEDULE.sigma(torch.tensor(float(t))))) == t


def test_sigma_at_percent_spans_the_schedule() -> None:
    assert SCHEDULE.sigma_at_percent(0) == float("inf")
    assert SCHEDULE.sigma_at_percent(1) == 0
    assert SCHEDULE.sigma_at_percent(0.5) == pytest.approx(
        float(SCHEDULE.sigma(torch.tensor(499.5)))
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 1000])
@pytest.mark.parametrize("rho", [0.15, 1, 7, 100])
@pytest.mark.parametrize("ends", [(1e-30, 1e5), (1, 1e5), (1e-30, 1.1e-30), (9.9999, 10)], ids=str)
@pytest.mark.parametrize("name", ["karras", "exponential", "polyexponential"])
def test_only_the_last_level_of_a_curve_is_0(
    name: str, ends: tuple[float, float], rho: float, steps: int
) -> None:
    """Also where float32 has no difference between the smallest level and 0 on the way to it."""
    func = {"name": name, "sigma_min": ends[0], "sigma_max": ends[1], "rho": rho}
    levels = custom(SchedulerFunc.model_validate(func))(steps, SCHEDULE)
    assert len(levels) == steps + 1
    assert levels[-1] == 0
    assert bool((levels[:-1] > 0).all())
    assert bool(levels.isfinite().all())
    assert bool((levels.diff() <= 0).all())


def test_a_run_is_the_end_of_a_longer_schedule() -> None:
    whole = simple(40, SCHEDULE)
    run = run_levels(simple, 20, 0.5, SCHEDULE, discard_penultimate=False)
    assert run.sigmas == whole[20:].tolist()
    assert len(run.sigmas) == 21
    assert run.span == (float(whole[-2]), float(whole[0]))


def test_steps_over_denoise_is_truncated() -> None:
    run = run_levels(simple, 7, 0.6, SCHEDULE, discard_penultimate=False)  # 11.67 steps
    assert run.sigmas == simple(11, SCHEDULE)[4:].tolist()


def test_a_schedule_without_room_gives_nothing_to_do() -> None:
    # beta drops coinciding timesteps: 10,000 steps become at most 1,000.
    run = run_levels(SCHEDULERS["beta"], 1, 0.0001, SCHEDULE, discard_penultimate=False)
    assert run.sigmas == []


@pytest.mark.parametrize(("keeps_noise", "last"), [(False, 0.0), (True, 1.0)])
def test_a_schedule_that_is_too_long_is_cut(keeps_noise: bool, last: float) -> None:
    def scheduler(steps: int, schedule: DiscreteSchedule) -> torch.Tensor:
        return torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.0])

    run = run_levels(
        scheduler, 2, 0.6, SCHEDULE, discard_penultimate=False, keeps_noise=keeps_noise
    )
    assert run.sigmas == [3.0, 2.0, last]
    assert run.span == (0.5, 4.0)
