"""A whole request on the step engine: every SEG of every pass at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from preprocessing.images import Pixels
from preprocessing.packing import Packer, mask_at, pixels_at
from preprocessing.plan import Outcome, Piece, Plan, PlannedSeg, SampledSeg
from sampling import detail
from sampling.engine import StepEngine
from sampling.noise import next_seed
from sampling.pipeline import Pipeline
from sampling.program import Program

T = TypeVar("T")


@dataclass(frozen=True)
class SampledRequest:
    """The outcome and the flat uint8 tensor of decoded crops that it points into."""

    outcome: Outcome
    sampled: Pixels


@dataclass(frozen=True)
class _Done:
    seg: int
    batch_pass: int
    pixels: Pixels
    seed: int
    steps_run: int
    sample_s: float


async def sample(
    engine: StepEngine, pipeline: Pipeline, plan: Plan, crops: Pixels, masks: Pixels
) -> SampledRequest:
    """Samples every SEG that the plan does not skip, in every pass.

    Args:
        crops, masks: the flat tensors that the plan points into.

    Raises:
        DeadlineExceededError: the plan's deadline passed; nothing of the request goes on.
    """
    start_s = time.perf_counter()
    work = _RequestWork(engine, pipeline, plan, crops, masks)
    done = await work.run()
    packer = Packer()
    segs = tuple(
        SampledSeg(
            index=one.seg,
            batch_pass=one.batch_pass,
            status="enhanced" if one.steps_run else "unsampled_schedule_too_short",
            pixels=packer.add(one.pixels),
            seed=one.seed,
            steps_run=one.steps_run,
            sample_s=one.sample_s,
        )
        for one in done
    )
    outcome = Outcome(segs=segs, sample_s=time.perf_counter() - start_s)
    return SampledRequest(outcome, packer.tensor())


class _RequestWork:
    """The tasks of one request."""

    def __init__(
        self, engine: StepEngine, pipeline: Pipeline, plan: Plan, crops: Pixels, masks: Pixels
    ) -> None:
        self._engine = engine
        self._pipeline = pipeline
        self._plan = plan
        self._crops = crops
        self._masks = masks

    async def run(self) -> list[_Done]:
        """Every pass of every SEG; the first error ends them all."""
        options = self._plan.request
        chosen = [
            (i, seg, seg.crop) for i, seg in enumerate(self._plan.segs) if seg.crop is not None
        ]
        if not chosen:
            return []
        prompts = detail.prompts_needed(options)
        text = self._start(detail.conditioning(self._pipeline, prompts))
        latents = [self._encode(crop) for _, _, crop in chosen]
        passes = [
            asyncio.ensure_future(self._detail(index, seg, batch_pass, text, latent))
            for batch_pass in range(options.batch_size)
            for (index, seg, _), latent in zip(chosen, latents, strict=True)
        ]
        try:
            return await asyncio.gather(*passes)
        finally:
            tasks: list[asyncio.Future[Any]] = [text, *latents, *passes]
            for task in tasks:
                task.cancel()

    def _start(self, program: Program[T]) -> asyncio.Future[T]:
        plan = self._plan
        return asyncio.ensure_future(
            self._engine.run(program, request=plan.request_id, deadline_s=plan.deadline_s)
        )

    def _encode(self, crop: Piece) -> asyncio.Future[torch.Tensor]:
        return self._start(detail.encode(self._pipeline, pixels_at(self._crops, crop)))

    async def _detail(
        self,
        index: int,
        seg: PlannedSeg,
        batch_pass: int,
        text: asyncio.Future[torch.Tensor],
        latent: asyncio.Future[torch.Tensor],
    ) -> _Done:
        start_s = time.perf_counter()
        options = self._plan.request
        seed = next_seed(options.seed, batch_pass + 1)  # the first pass counts too
        mask = torch.from_numpy(mask_at(self._masks, seg.mask)) if options.noise_mask else None
        sampled = await self._start(
            detail.detail(self._pipeline, options, await text, await latent, mask, seed)
        )
        pixels = await self._start(detail.decode(self._pipeline, sampled.latent))
        seconds = time.perf_counter() - start_s
        return _Done(index, batch_pass, pixels, seed, sampled.steps_run, seconds)
