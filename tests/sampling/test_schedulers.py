"""Schedules against the reference's numbers."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
import torch

from pipelines import Schedule
from sampling.schedule import DiscreteSchedule
from sampling.schedulers import SCHEDULERS, noise_levels, run_levels, simple
from segs_client.contract import SchedulerName
from tests.conftest import GOLDEN

SCHEDULE = DiscreteSchedule.of(Schedule())


def reference_lists() -> dict[str, list[tuple[str, int, list[float]]]]:
    """scheduler → (mode, steps, σ) as the reference computed them."""
    lists: dict[str, list[tuple[str, int, list[float]]]] = defaultdict(list)
    for key, sigmas in json.loads((GOLDEN / "sigmas.json").read_text()).items():
        name, mode, steps = key.split("|")
        lists[name].append((mode, int(steps), sigmas))
    return lists


@pytest.mark.parametrize("name", SCHEDULERS)
def test_levels_are_the_references(name: str) -> None:
    lists = reference_lists()[name]
    assert len(lists) > 50
    for mode, steps, expected in lists:
        sigmas = noise_levels(SCHEDULERS[name], steps, SCHEDULE, discard_penultimate=mode != "full")
        levels = torch.tensor(expected)
        # kl_optimal divides 0 by 0 for one step in the reference; here it starts at the top.
        levels = torch.where(levels.isnan(), SCHEDULE.sigma_max, levels)
        torch.testing.assert_close(sigmas, levels, rtol=1e-5, atol=0, msg=f"{name} {mode} {steps}")


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
