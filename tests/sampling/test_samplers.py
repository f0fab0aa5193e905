"""Samplers on a model with an exact answer."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sampling.noise import BrownianIncrement
from sampling.samplers import SAMPLERS, Prediction, Run
from sampling.samplers.base import ancestral, distinct
from sampling.samplers.dpm import NotConvergingError
from sampling.schedulers import SCHEDULERS, karras_between, run_levels
from segs_client.contract import SamplerName
from tests.conftest import GOLDEN
from tests.sampling.analytic import SCHEDULE, SPAN, exact_end, guided, run, unguided

SPREAD = 0.7
ORDERS = {
    "euler": 1,
    "euler_cfg_pp": 1,
    "heun": 2,
    "heunpp2": 1,  # it approaches Euler's method towards small σ
    "dpm_2": 2,
    "lms": 4,
    "dpmpp_2m": 2,
    "dpmpp_2m_cfg_pp": 2,
    "ipndm": 2,  # its weights are those of equal steps
    "deis": 3,
    "res_multistep": 2,
    "res_multistep_cfg_pp": 2,
    "gradient_estimation": 1,
    "gradient_estimation_cfg_pp": 1,
    "ddim": 1,
}
FULL_ORDER_AT = {"uni_pc": -2, "uni_pc_bh2": -2, "sa_solver": -3, "sa_solver_pece": -6}
"""The question whose x shows the order that the solver has before it falls to the end."""
ANCESTRAL = (
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "ddpm",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
)
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
STOCHASTIC = (
    *ANCESTRAL,
    *BROWNIAN,
    *(f"{name}_gpu" for name in BROWNIAN),
    "dpmpp_2s_ancestral_cfg_pp",
    "lcm",
)
OWN_LEVELS = ("dpm_fast", "dpm_adaptive")
PLAIN_FORMS = {
    "euler_cfg_pp": "euler",
    "euler_ancestral_cfg_pp": "euler_ancestral",
    "dpmpp_2m_cfg_pp": "dpmpp_2m",
    "res_multistep_cfg_pp": "res_multistep",
    "res_multistep_ancestral_cfg_pp": "res_multistep_ancestral",
    "gradient_estimation_cfg_pp": "gradient_estimation",
}


def levels(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Karras levels without the final zero."""
    sigmas: list[float] = karras_between(steps + 1, sigma_min, sigma_max)[:-1].double().tolist()
    return sigmas


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def error_after(name: str, steps: int) -> float:
    sigmas = levels(steps, 0.1, 100.0)
    x = one(100.0)
    end, _ = run(name, x, sigmas, unguided(SPREAD))
    return float((end - exact_end(x, sigmas[0], sigmas[-1], SPREAD)).abs())


def error_at(name: str, question: int, steps: int) -> float:
    """At σ where SA-Solver is deterministic."""
    sigmas = levels(steps, 10.0, 1000.0)
    x, spread = one(1000.0), 70.0
    _, asked = run(name, x, sigmas, unguided(spread))
    there = asked[question]
    return float((there.x - exact_end(x, sigmas[0], there.sigma, spread)).abs())


def test_every_name_of_the_contract_is_there() -> None:
    assert tuple(SAMPLERS) == SamplerName.__args__  # type: ignore[attr-defined]


def test_every_sampler_has_a_test_of_its_own_behaviour_or_a_golden_case() -> None:
    tested = {*ORDERS, *FULL_ORDER_AT, *STOCHASTIC, *OWN_LEVELS, *PLAIN_FORMS}
    golden = {path.stem.removeprefix("sampler-") for path in GOLDEN.glob("sampler-*.npz")}
    assert set(SAMPLERS) <= tested | golden


def test_what_a_run_must_know_of_its_sampler() -> None:
    discarding = {name for name, sampler in SAMPLERS.items() if sampler.discard_penultimate}
    assert discarding == {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}
    with_uncond = {name for name, sampler in SAMPLERS.items() if sampler.needs_uncond}
    assert with_uncond == {name for name in SAMPLERS if "cfg_pp" in name}


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_order_of_convergence(name: str, order: int) -> None:
    rate = math.log2(error_after(name, 80) / error_after(name, 160))
    assert rate == pytest.approx(order, abs=0.2)


def test_variable_weights_keep_at_least_second_order() -> None:
    """diff-sampler's third-order weights are exact for equal steps only."""
    assert math.log2(error_after("ipndm_v", 160) / error_after("ipndm_v", 320)) > 1.5


def test_dpm_fast_is_of_third_order() -> None:
    """With 3m − 1 steps there are m intervals, the last of order 2."""
    rate = math.log2(error_after("dpm_fast", 65) / error_after("dpm_fast", 131))
    assert rate == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize(("name", "question"), FULL_ORDER_AT.items())
def test_predictor_correctors_are_of_fourth_order(name: str, question: int) -> None:
    rate = math.log2(error_at(name, question, 80) / error_at(name, question, 160))
    assert rate == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("name", (*ANCESTRAL, *BROWNIAN))
def test_noise_keeps_the_distribution(name: str) -> None:
    """Started from N(0, spread² + σ²), the end has the data's spread."""
    sigmas = levels(60 if name in BROWNIAN else 200, 0.03, 10.0)
    start = torch.randn(10_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = unguided(SPREAD)
    end, _ = run(name, start * math.hypot(SPREAD, sigmas[0]), sigmas, model, seed=2)
    assert float(end.std()) == pytest.approx(math.hypot(SPREAD, sigmas[-1]), rel=0.03)


@pytest.mark.parametrize("name", BROWNIAN)
def test_the_brownian_path_spans_the_whole_schedule(name: str) -> None:
    """But for dpmpp_2m_sde_heun, whose path spans the run."""
    spans = []

    def brownian(low: float, high: float) -> BrownianIncrement:
        spans.append((low, high))
        return lambda a, b: torch.zeros(1, 1)

    tools = Run(noise=lambda: torch.zeros(1, 1), brownian=brownian, span=SPAN, schedule=SCHEDULE)
    next(SAMPLERS[name].steps(one(1.0), [5.0, 2.0, 0.0], tools))
    assert spans == [(2.0, 5.0) if name == "dpmpp_2m_sde_heun" else SPAN]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in OWN_LEVELS])
def test_reports_are_one_at_each_level(name: str) -> None:
    sigmas = [*levels(5, 0.05, 10.0), 0.0]
    end, asked = run(name, torch.ones(1, 4, 2, 2), sigmas, unguided(SPREAD))
    reports = [question.sigma for question in asked if question.reports]
    assert reports == sigmas[:-1]
    assert end.shape == (1, 4, 2, 2)
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_seed_same_path(name: str) -> None:
    sigmas = [*levels(6, 0.05, 10.0), 0.0]
    model = unguided(SPREAD)
    ends = [run(name, torch.ones(1, 4, 3, 5), sigmas, model, seed=seed)[0] for seed in (3, 3, 4)]
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2]) == (name not in STOCHASTIC)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_short_and_odd_runs_end(name: str, steps: int) -> None:
    karras = [*levels(steps, 0.03, 14.0)[:-1], 0.0]
    beyond_the_schedule = run_levels(
        SCHEDULERS["AYS SVD"], steps, 1.0, SCHEDULE, discard_penultimate=False
    )
    small_denoise = run_levels(
        SCHEDULERS["sgm_uniform"], steps, 0.01, SCHEDULE, discard_penultimate=False
    )
    repeating = run_levels(SCHEDULERS["simple"], steps, 0.0035, SCHEDULE, discard_penultimate=False)
    to_a_level = levels(steps, 0.4, 14.0)
    for sigmas in (
        karras,
        beyond_the_schedule.sigmas,
        small_denoise.sigmas,
        repeating.sigmas,
        to_a_level,
    ):
        assert len(sigmas) == steps + 1
        x = torch.full((1, 4, 2, 2), sigmas[0])
        end, asked = run(name, x, sigmas, guided(SPREAD, 0.9), seed=5)
        assert torch.isfinite(end).all()
        assert end.dtype == torch.float32
        assert all(question.sigma > 0 for question in asked)
        assert all(question.reports for question in asked[:1])
        single = name == "dpm_adaptive" and len({sigma for sigma in sigmas if sigma > 0}) == 1
        assert bool(asked) != single  # its ends are one level


@pytest.mark.parametrize("name", OWN_LEVELS)
def test_own_levels_start_where_the_run_does(name: str) -> None:
    sigmas = [*levels(7, 0.05, 10.0), 0.0]
    x = torch.full((1, 4, 2, 2), 10.0)
    end, asked = run(name, x, sigmas, unguided(SPREAD))
    reports = [question.sigma for question in asked if question.reports]
    assert reports[0] == pytest.approx(sigmas[0])
    assert reports == sorted(reports, reverse=True)
    expected = exact_end(x, sigmas[0], sigmas[-2], SPREAD)
    torch.testing.assert_close(end, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 20])
def test_dpm_fast_makes_as_many_calls_as_steps(steps: int) -> None:
    sigmas = [*levels(steps, 0.05, 10.0)[1:], 0.0]
    _, asked = run("dpm_fast", one(1.0), sigmas, unguided(SPREAD))
    assert len(asked) == steps
    assert sum(question.reports for question in asked) == steps // 3 + 1


def test_dpm_adaptive_rejects_steps_that_are_too_long() -> None:
    """Data of two sharp kinds: the prediction jumps where the choice is made."""

    def two_kinds(x: torch.Tensor, sigma: float) -> Prediction:
        denoised = torch.tanh(x / sigma**2)
        return Prediction(denoised, denoised)

    x = torch.linspace(-60, 60, 16, dtype=torch.float64)[None]
    end, asked = run("dpm_adaptive", x, [20.0, 0.05, 0.0], two_kinds)
    starts = [question.sigma for question in asked if question.reports]
    rejected = sum(a == b for a, b in pairwise(starts))
    assert 0 < rejected < len(starts) / 2
    torch.testing.assert_close(end.abs(), torch.ones_like(end), rtol=0, atol=0.15)


def test_dpm_adaptive_gives_up_on_a_model_without_sense() -> None:
    def nothing(x: torch.Tensor, sigma: float) -> Prediction:
        return Prediction(x * math.nan, x * math.nan)

    with pytest.raises(NotConvergingError, match="sigma 10 after 1000 attempts"):
        run("dpm_adaptive", one(1.0), [10.0, 0.05, 0.0], nothing)


@pytest.mark.parametrize(("name", "plain"), PLAIN_FORMS.items())
def test_cfg_pp_without_guidance_is_the_plain_form(name: str, plain: str) -> None:
    sigmas = [*levels(6, 0.05, 10.0), 0.0]
    x = torch.full((1, 4, 2, 2), 10.0, dtype=torch.float64)
    for run_sigmas in (sigmas, sigmas[:-1]):
        ends = [run(each, x, run_sigmas, unguided(SPREAD))[0] for each in (name, plain)]
        torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("name", [name for name in PLAIN_FORMS if "ancestral" not in name])
def test_cfg_pp_goes_from_the_guided_along_the_negatives_slope(name: str) -> None:
    sigma, sigma_next = 4.0, 1.0
    x = one(3.0)
    denoised, uncond = guided(SPREAD, 2.0)(x, sigma)
    end, _ = run(name, x, [sigma, sigma_next], guided(SPREAD, 2.0))
    torch.testing.assert_close(end, denoised + (x - uncond) / sigma * sigma_next)


def test_dpmpp_2s_ancestral_cfg_pp_by_hand() -> None:
    """Both updates start from x + D − U, the second with the midpoint's U."""
    sigma, sigma_next, x = 4.0, 1.0, one(3.0)
    model = guided(SPREAD, 2.0)
    down, up = ancestral(sigma, sigma_next)
    middle = math.sqrt(sigma * down)
    D, U = model(x, sigma)  # noqa: N806
    x_2 = middle / sigma * (x + D - U) + (1 - middle / sigma) * D
    D_2, U_2 = model(x_2, middle)  # noqa: N806
    expected = down / sigma * (x + D - U_2) + (1 - down / sigma) * D_2
    noise = torch.randn(1, 1, generator=torch.Generator().manual_seed(6))
    end, _ = run("dpmpp_2s_ancestral_cfg_pp", x, [sigma, sigma_next], model, seed=6)
    torch.testing.assert_close(end, expected + up * noise)


@pytest.mark.parametrize("name", [name for name in PLAIN_FORMS if "ancestral" not in name])
def test_cfg_pp_moves_by_the_guidance_where_a_level_repeats(name: str) -> None:
    """A step of length 0 is a step along D − U; it leaves nothing to extrapolate from."""
    sigma, x, model = 4.0, one(3.0), guided(SPREAD, 2.0)
    for repeats in (1, 2, 3):
        end, _ = run(name, x, [sigma] * (repeats + 1), model)
        moved = x
        for _ in range(repeats):
            denoised, uncond = model(moved, sigma)
            moved = moved + denoised - uncond
        torch.testing.assert_close(end, moved)
        after, _ = run(name, x, [*[sigma] * repeats, 1.0, 0.5], model)
        expected, _ = run(name, run(name, x, [sigma] * repeats, model)[0], [sigma, 1.0, 0.5], model)
        if name != "gradient_estimation_cfg_pp":  # its older slope is that at the same level
            torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
@pytest.mark.parametrize("last", [0.0, 2.0])
def test_uni_pc_of_a_single_step_has_order_0(name: str, last: float) -> None:
    x = one(3.0)
    end, asked = run(name, x, [4.0, last], unguided(SPREAD))
    assert torch.equal(end, x)
    assert [question.sigma for question in asked] == [4.0]


def test_lcm_ends_each_step_at_the_next_level() -> None:
    end, _ = run("lcm", torch.full((1, 10_000), 5.0), [10.0, 2.0], unguided(SPREAD))
    assert float(end.std()) == pytest.approx(2.0, rel=0.03)


def test_distinct_drops_repetitions() -> None:
    assert distinct([3.0, 3.0, 2.0, 2.0, 2.0, 0.0]) == [3.0, 2.0, 0.0]
    assert distinct([3.0, 0.0]) == [3.0, 0.0]
