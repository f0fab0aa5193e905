"""How a SEG is sampled: its levels, its seeds and its refiner, for every sampler and scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch

from pipelines import Schedule
from request_plan.plan import Piece, PlannedSeg
from sampling import detail
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.denoiser import Denoiser, Sampled
from sampling.masks import LatentMask
from sampling.noise import seeded_noise
from sampling.pipeline import Pipeline
from sampling.program import NetworkCall, Program, Tensors, run_alone
from sampling.samplers import SAMPLERS, Run, Sampler
from sampling.schedule import DiscreteSchedule
from sampling.schedulers import SCHEDULERS, run_levels
from sampling.unet import UNet
from segs_client.contract import DetailRequest
from tests.descriptors import bare_pipeline

SCHEDULE = DiscreteSchedule.of(Schedule())
SHAPE = (1, 4, 4, 6)
LATENT = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
SOFT = torch.linspace(0, 1, 24).reshape(1, 1, 4, 6)
PASSES_ON_NOISE: dict[str, Any] = {"noise_mask": False, "refiner": {"pipeline": "base"}}
OWN_LEVELS: dict[str, dict[str, Any]] = {
    "list": {"name": "sigmas", "sigmas": [12.0, 5.0, 2.0, 0.8, 0.3, 0.05, 0.0]},
    "list that does not end with 0": {"name": "sigmas", "sigmas": [12.0, 5.0, 2.0, 0.3]},
    "karras": {"name": "karras", "sigma_min": 0.05, "sigma_max": 12.0, "rho": 5.0},
    "exponential": {"name": "exponential", "sigma_min": 0.05, "sigma_max": 12.0},
    "polyexponential": {"name": "polyexponential", "sigma_min": 0.05, "sigma_max": 12.0},
}


@dataclass(frozen=True)
class Started:
    """What one run of a sampler was given."""

    x: torch.Tensor
    sigmas: Sequence[float]
    mask: LatentMask | None
    step_noise: torch.Tensor


@dataclass(frozen=True)
class Outcome:
    """The runs of a SEG, in order, and what came of it."""

    runs: Sequence[Started]
    detailed: detail.Detailed


def stage() -> detail.Stage:
    unet = UNet("unet", "epsilon", SCHEDULE)
    descriptor = bare_pipeline(latent_scale=0.2, context_dim=2, networks={})
    side = (Conditioning(Encoded(torch.zeros(1, 77, 2), None)),)
    return detail.Stage(Pipeline(descriptor, SCHEDULE, (), unet, {}), Guidance(side, side))


def sampled(
    *,
    mask: torch.Tensor | None = None,
    batch_pass: int = 0,
    spy: pytest.MonkeyPatch | None = None,
    **options: Any,
) -> Outcome:
    """Samples :data:`LATENT`, by networks that answer a multiple of what they see.

    With ``spy`` each run is only noted, and returns its own x.
    """
    request = DetailRequest(pipeline="base", cfg=3.0, **options)
    box, piece = (0, 0, 48, 32), Piece(offset=0, height=32, width=48)
    seg = PlannedSeg(
        bbox=box, crop_region=box, label="", confidence=1.0, mask=piece, crop=piece,
        seed=request.seed, steps=request.steps, cfg=request.cfg, denoise=request.denoise,
    )  # fmt: skip
    runs: list[Started] = []

    def noted(
        sampler: Sampler, denoiser: Denoiser, x: torch.Tensor, sigmas: Sequence[float], run: Run,
        listener: object = None,
    ) -> Program[Sampled]:  # fmt: skip
        runs.append(Started(x, sigmas, denoiser.mask, run.noise()))
        yield from ()
        return Sampled(x, x, len(sigmas) - 1)

    if spy is not None:
        spy.setattr(detail, "run_sampler", noted)
    encoded = detail.EncodedSeg(LATENT, mask)
    refiner = stage() if request.refiner is not None else None
    program = detail.detail(stage(), refiner, request, seg, encoded, batch_pass)
    return Outcome(runs, run_alone(program, _network))


def _network(call: NetworkCall) -> Tensors:
    return {"out_sample": 0.3 * call.inputs["sample"]}


def own_levels(name: str, steps: int) -> list[float]:
    """The levels of one of :data:`OWN_LEVELS`, rounded as the reference's."""
    func = OWN_LEVELS[name]
    if name.startswith("list"):
        return [float(torch.tensor(sigma)) for sigma in func["sigmas"]]
    ramp = torch.linspace(0, 1, steps)
    low, high = func["sigma_min"], func["sigma_max"]
    if name == "karras":
        sigmas = (high**0.2 + ramp * (low**0.2 - high**0.2)) ** 5
    else:
        left = 1 - ramp if name == "exponential" else (1 - ramp) ** 7
        sigmas = (math.log(low) + left * math.log(high / low)).exp()
    return [*sigmas.tolist(), 0.0]


@pytest.mark.parametrize("name", OWN_LEVELS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_requests_own_levels_are_run_whole(
    sampler: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sampler asks for one more or leaves one out."""
    (run,) = sampled(
        spy=monkeypatch, sampler_name=sampler, scheduler_func=OWN_LEVELS[name], steps=6, denoise=1
    ).runs
    assert list(run.sigmas) == pytest.approx(own_levels(name, 6), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "steps", "denoise", "first"),
    [
        (1, 1, 1.0, None),
        (1, 5, 0.5, None),
        (2, 1, 1.0, 0),
        (2, 5, 1.0, 0),
        (2, 1, 0.5, None),
        (3, 1, 0.5, 1),
        (4, 5, 0.6, None),  # 8 steps, of which the first 3 are left out
        (5, 5, 0.6, 3),
        (9, 5, 0.6, 3),
    ],
)
@pytest.mark.parametrize("last", [0.0, 0.03])
def test_lists_of_any_length(
    count: int, steps: int, denoise: float, first: int | None, last: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    levels = [*torch.linspace(9, 1, count)[: count - 1].tolist(), last]
    func = {"name": "sigmas", "sigmas": levels}
    done = sampled(spy=monkeypatch, scheduler_func=func, steps=steps, denoise=denoise)
    expected = [] if first is None else [pytest.approx(levels[first:])]
    assert [run.sigmas for run in done.runs] == expected
    if first is None:
        assert done.detailed.steps_run == 0
        assert torch.equal(done.detailed.latent, LATENT)


def test_of_a_list_that_is_too_long_the_end_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = torch.linspace(12, 1, 12).tolist()
    func = {"name": "sigmas", "sigmas": [*levels, 0.0]}
    options: dict[str, Any] = {"scheduler_func": func, "steps": 5, "denoise": 0.6}
    (run,) = sampled(spy=monkeypatch, **options).runs
    assert run.sigmas == [*levels[3:8], 0.0]
    (base,) = sampled(spy=monkeypatch, **options, **PASSES_ON_NOISE, refiner_ratio=0.0).runs
    assert base.sigmas == levels[3:9]  # with the noise that is left


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_base_and_refiner_share_the_steps(
    sampler: str, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_levels(
        SCHEDULERS["normal"], 5, 0.6, SCHEDULE,
        discard_penultimate=SAMPLERS[sampler].discard_penultimate,
    ).sigmas  # fmt: skip
    split = math.floor(5 * (1 - ratio))
    expected = [part for part in (whole[: split + 1], whole[split:]) if len(part) > 1]
    done = sampled(
        spy=monkeypatch, mask=SOFT, sampler_name=sampler, steps=5, denoise=0.6,
        refiner={"pipeline": "base"}, refiner_ratio=ratio,
    )  # fmt: skip
    assert [run.sigmas for run in done.runs] == expected
    assert done.detailed.steps_run == 5


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_with_a_refiner(sampler: str, ratio: float) -> None:
    for steps in (1, 2, 5):
        done = sampled(
            mask=SOFT, sampler_name=sampler, steps=steps, denoise=0.6,
            refiner={"pipeline": "base"}, refiner_ratio=ratio,
        )  # fmt: skip
        assert torch.isfinite(done.detailed.latent).all()
        assert done.detailed.steps_run > 0


@pytest.mark.parametrize("noise_mask", [False, True])
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_ancestral", "dpmpp_2m_sde"])
def test_seeds_of_passes_cycles_and_masks(
    sampler: str, refined: bool, noise_mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ddim's noise outside the mask is of the next seed, in a refiner's part too; otherwise it is
    the noise inside, which a refiner begins without."""
    options: dict[str, Any] = {"refiner": {"pipeline": "base"}} if refined else {}
    for batch_pass in (0, 2):
        runs = sampled(
            spy=monkeypatch, mask=SOFT if noise_mask else None, batch_pass=batch_pass, seed=40,
            sampler_name=sampler, cycle=3, batch_size=3, refiner_ratio=0.5, **options,
        ).runs  # fmt: skip
        parts = ("base", "refiner") if refined else ("base",)
        for run, (cycle, part) in zip(runs, product(range(3), parts), strict=True):
            seed = 41 + batch_pass + cycle
            assert torch.equal(run.step_noise, seeded_noise(seed, SHAPE))
            assert (run.mask is not None) == noise_mask
            if run.mask is None:
                continue
            outside = seeded_noise(seed + (sampler == "ddim"), SHAPE)
            if part == "refiner" and sampler != "ddim":
                outside = torch.zeros(SHAPE)
            assert torch.equal(run.mask.noise, outside)


@pytest.mark.parametrize("denoise", [0.0001, 0.001, 0.003, 0.01, 0.1])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_run_within_one_timestep_changes_nothing_under_differential_diffusion(
    scheduler: str, denoise: float
) -> None:
    """The mask's threshold is 0/0 there. Without a feather the mask is as it is."""
    for steps in (1, 3, 20):
        levels = run_levels(
            SCHEDULERS[scheduler], steps, denoise, SCHEDULE, discard_penultimate=False
        ).sigmas
        ends = {
            SCHEDULE.timestep(max(each, SCHEDULE.sigma_min)) for each in levels[:1] + levels[-1:]
        }
        options: dict[str, Any] = {"scheduler": scheduler, "steps": steps, "denoise": denoise}
        feathered = sampled(mask=SOFT, **options).detailed
        assert feathered.steps_run == max(len(levels) - 1, 0)
        assert torch.equal(feathered.latent, LATENT) == (len(ends) < 2)
        if levels:
            plain = sampled(mask=SOFT, noise_mask_feather=0, **options).detailed
            assert not torch.equal(plain.latent, LATENT)
            assert torch.equal(plain.latent[..., 0, 0], LATENT[..., 0, 0])  # SOFT is 0 there


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"denoise": 1.0},
        {"denoise": 0.5},
        {"denoise": 1.0, "scheduler": "AYS SVD"},  # 700, above the schedule's largest
        {"denoise": 1.0, "scheduler_func": {"name": "sigmas", "sigmas": [3.0, 0.0]}},
        {"denoise": 0.5, "scheduler_func": {"name": "sigmas", "sigmas": [3.0, 2.0, 0.0]}},
    ],
    ids=str,
)
def test_dpm_adaptive_of_a_single_step_is_the_noised_start(
    options: dict[str, Any], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = SOFT if masked else None
    options = {**options, "sampler_name": "dpm_adaptive", "steps": 1, "seed": 6}
    done = sampled(mask=mask, **options).detailed
    sigma = sampled(spy=monkeypatch, mask=mask, **options).runs[0].sigmas[0]
    scale = math.sqrt(1 + sigma**2) if sigma > 14 else sigma  # the schedule's largest is 14.6
    torch.testing.assert_close(done.latent, LATENT + scale * seeded_noise(7, SHAPE))
    assert done.steps_run == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_levels_that_repeat_are_steps_too(sampler: str) -> None:
    """Above 1,000 steps ``simple`` repeats levels; a base's part may be a single one of them,
    whose noise its refiner takes over."""
    options: dict[str, Any] = {"sampler_name": sampler, "scheduler": "simple", "denoise": 0.0005}
    for steps, refiner in product((2, 3), (None, {"pipeline": "base"})):
        done = sampled(steps=steps, refiner=refiner, refiner_ratio=0.5, **options).detailed
        assert torch.isfinite(done.latent).all()
        assert done.steps_run > 0


def test_a_base_of_one_level_passes_its_noise_on(monkeypatch: pytest.MonkeyPatch) -> None:
    base, refiner = sampled(
        spy=monkeypatch, seed=6, scheduler="simple", steps=2, denoise=0.0005, refiner_ratio=0.5,
        **PASSES_ON_NOISE,
    ).runs  # fmt: skip
    assert base.sigmas == [SCHEDULE.sigma_min] * 2
    torch.testing.assert_close(base.x, LATENT + SCHEDULE.sigma_min * seeded_noise(7, SHAPE))
    assert torch.equal(refiner.x, base.x)
