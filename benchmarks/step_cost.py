"""What one SEG costs per step outside the networks: sampler, guidance, mask, batching.

    python -m benchmarks.step_cost

Networks answer at once with zeros; latents are 64×64 (pictures of 512²); one thread. The drawing
of step noise is shown apart: an SDE sampler's path is a Brownian tree whose about 35 normal draws
a step are what the reference's seeds mean.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch

from benchmarks.machine import describe
from pipelines import Schedule
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.denoiser import Denoiser, run_sampler
from sampling.engine import StepEngine
from sampling.masks import LatentMask, MaskSchedule
from sampling.noise import brownian_tree, seeded_noise, step_noise
from sampling.program import Program, Tensors
from sampling.samplers import SAMPLERS, Run
from sampling.schedule import DiscreteSchedule
from sampling.schedulers import SCHEDULERS, run_levels
from sampling.unet import UNet

P = ParamSpec("P")
T = TypeVar("T")

BAR_S = 0.001
STEPS = 20
SHAPE = (1, 4, 64, 64)
SCHEDULE = DiscreteSchedule.of(Schedule())
SHOWN = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "uni_pc")


class InstantNetworks:
    """Zeros, made beforehand."""

    def __init__(self) -> None:
        self._zeros = torch.zeros(64, *SHAPE[1:])

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        return {"out_sample": self._zeros[: inputs["sample"].shape[0]]}


class UnlimitedRows:
    """Lets every SEG into the batch."""

    def batch_limit(self, row_shape: Sequence[int]) -> int:
        return 64


class Stopwatch:
    """Sums up the seconds that some functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[P, T]) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            start_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start_s

        return call


def one_seg(sampler_name: str, seed: int, noise_watch: Stopwatch) -> Program[int]:
    """One SEG's sampling with guidance and differential diffusion; returns the steps run."""
    sampler = SAMPLERS[sampler_name]
    discard = sampler.discard_penultimate
    sigmas, span = run_levels(
        SCHEDULERS["normal"], STEPS, 1.0, SCHEDULE, discard_penultimate=discard
    )
    side = (Conditioning(Encoded(torch.zeros(1, 77, 768))),)
    guidance = Guidance(side, side)
    noise = seeded_noise(seed, SHAPE)
    mask = LatentMask(
        torch.rand(1, 1, *SHAPE[2:]), noise, noise, MaskSchedule.of_run(SCHEDULE, sigmas)
    )
    unet = UNet("unet", "epsilon", SCHEDULE)
    denoiser = Denoiser(unet, guidance, guidance.rows("sd1", *SHAPE[2:]), 7.0, mask)
    run = Run(
        noise=noise_watch.timed(step_noise(seed, SHAPE)),
        brownian=lambda low, high: noise_watch.timed(brownian_tree(seed, noise, low, high)),
        span=span,
        schedule=SCHEDULE,
    )
    done = yield from run_sampler(sampler, denoiser, noise * sigmas[0], sigmas, run)
    return done.steps


async def _seconds(sampler_name: str, segs: int) -> tuple[float, float]:
    watch = Stopwatch()
    engine = StepEngine(InstantNetworks(), {"unet": UnlimitedRows()})
    serving = asyncio.create_task(engine.serve())
    start_s = time.perf_counter()
    steps = await asyncio.gather(
        *(engine.run(one_seg(sampler_name, seed, watch)) for seed in range(segs))
    )
    seconds = time.perf_counter() - start_s
    serving.cancel()
    return (seconds - watch.seconds) / sum(steps), watch.seconds / sum(steps)


def measure(sampler_name: str, segs: int, rounds: int = 5) -> tuple[float, float]:
    """Seconds per SEG and step of the model and of its noise, the best of some rounds."""
    return min(asyncio.run(_seconds(sampler_name, segs)) for _ in range(rounds))


def main(names: Sequence[str] = SHOWN) -> int:
    """Prints the table; returns 1 if a row is over its bar."""
    torch.set_num_threads(1)
    lines = [
        describe(),
        "",
        "| sampler | alone, ms | 8 SEGs in a batch, ms per SEG | step noise, ms |",
        "| --- | --- | --- | --- |",
    ]
    worst = 0.0
    for name in names:
        (alone, _), (shared, noise) = measure(name, 1), measure(name, 8)
        worst = max(worst, alone, shared)
        lines.append(f"| {name} | {alone * 1e3:.2f} | {shared * 1e3:.2f} | {noise * 1e3:.2f} |")
    sys.stdout.write(
        "\n".join(lines) + f"\n\nBar: {BAR_S * 1e3:g} ms per SEG and step, noise apart.\n"
    )
    return 0 if worst <= BAR_S else 1


if __name__ == "__main__":
    sys.exit(main())
