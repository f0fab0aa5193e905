"""A whole request on the step engine: every SEG of every pass at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from preprocessing.images import Pixels
from preprocessing.packing import Packer, mask_at, pixels_at
from preprocessing.plan import Outcome, Piece, Plan, PlannedPrompt, PlannedSeg, SampledSeg
from sampling import detail, vae
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.control import hint_for
from sampling.engine import StepEngine
from sampling.masks import to_latent
from sampling.noise import next_seed
from sampling.pipeline import Pipeline
from sampling.program import Program
from sampling.text import encode_prompt
from sampling.unet import Control

T = TypeVar("T")
_Asked = tuple[PlannedPrompt, "asyncio.Future[Encoded]"]


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
    engine: StepEngine,
    pipelines: Mapping[str, Pipeline],
    plan: Plan,
    crops: Pixels,
    masks: Pixels,
) -> SampledRequest:
    """Samples every SEG that the plan does not skip, in every pass.

    Args:
        crops, masks: the flat tensors that the plan points into.

    Raises:
        DeadlineExceededError: the plan's deadline passed; nothing of the request goes on.
    """
    start_s = time.perf_counter()
    done = await _RequestWork(engine, pipelines, plan, crops, masks).run()
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
    """The tasks of one request. Each prompt is encoded once, each crop once."""

    def __init__(
        self,
        engine: StepEngine,
        pipelines: Mapping[str, Pipeline],
        plan: Plan,
        crops: Pixels,
        masks: Pixels,
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._crops = crops
        self._masks = masks
        self._tasks: list[asyncio.Future[Any]] = []
        self._texts: dict[tuple[str, str], asyncio.Future[Encoded]] = {}
        request = plan.request
        self._base = pipelines[request.pipeline]
        refiner = request.refiner
        self._refiner = None if refiner is None else pipelines[refiner.pipeline]

    async def run(self) -> list[_Done]:
        """Every pass of every SEG; the first error ends them all."""
        chosen = [(index, seg, seg.crop) for index, seg in enumerate(self._plan.segs) if seg.crop]
        encoded = [self._encode(seg, crop) for _, seg, crop in chosen]
        passes = [
            asyncio.ensure_future(self._detail(index, seg, batch_pass, task))
            for batch_pass in range(self._plan.request.batch_size)
            for (index, seg, _), task in zip(chosen, encoded, strict=True)
        ]
        self._tasks += passes
        try:
            return await asyncio.gather(*passes)
        finally:
            for task in self._tasks:
                task.cancel()

    def _start(self, program: Program[T]) -> asyncio.Future[T]:
        plan = self._plan
        task: asyncio.Future[T] = asyncio.ensure_future(
            self._engine.run(program, request=plan.request_id, deadline_s=plan.deadline_s)
        )
        self._tasks.append(task)
        return task

    def _encode(self, seg: PlannedSeg, crop: Piece) -> asyncio.Future[detail.EncodedSeg]:
        request = self._plan.request
        mask = torch.from_numpy(mask_at(self._masks, seg.mask)) if request.noise_mask else None
        pixels = pixels_at(self._crops, crop)
        return self._start(detail.encode(self._base, request, pixels, mask))

    async def _detail(
        self,
        index: int,
        seg: PlannedSeg,
        batch_pass: int,
        encoding: asyncio.Future[detail.EncodedSeg],
    ) -> _Done:
        start_s = time.perf_counter()
        request = self._plan.request
        seed = next_seed(seg.seed, batch_pass + 1)  # the first pass counts too
        # Every prompt is asked for at once, so that they share a batch.
        texts = self._sides(self._base, seg, seg.positives, seg.negatives)
        refiner_texts = None
        if self._refiner is not None:
            sides = seg.refiner_positives, seg.refiner_negatives
            refiner_texts = self._sides(self._refiner, seg, *sides)
        encoded = await encoding
        base = await self._stage(self._base, seg, encoded, texts)
        refiner = None
        if self._refiner is not None and refiner_texts is not None:
            refiner = await self._stage(self._refiner, seg, encoded, refiner_texts)
        program = detail.detail(
            replace(base, controls=self._controls(seg, encoded)),
            refiner,
            request,
            seg,
            encoded,
            seed,
        )
        sampled = await self._start(program)
        pixels = await self._start(vae.decode(self._base.descriptor, sampled.latent))
        seconds = time.perf_counter() - start_s
        return _Done(index, batch_pass, pixels, seed, sampled.steps_run, seconds)

    def _sides(
        self,
        pipeline: Pipeline,
        seg: PlannedSeg,
        positives: Sequence[PlannedPrompt],
        negatives: Sequence[PlannedPrompt],
    ) -> list[list[_Asked]]:
        """Both sides' prompts, each with its encoding under way."""
        needed = negatives if detail.needs_negative(self._plan.request, seg) else ()
        return [
            [(prompt, self._text(pipeline, prompt.text)) for prompt in prompts]
            for prompts in (positives, needed)
        ]

    async def _stage(
        self,
        pipeline: Pipeline,
        seg: PlannedSeg,
        encoded: detail.EncodedSeg,
        sides: list[list[_Asked]],
    ) -> detail.Stage:
        guidance = []
        for side in sides:
            conditionings = [
                Conditioning(await text, self._weight(prompt, seg, encoded.latent))
                for prompt, text in side
            ]
            guidance.append(tuple(conditionings))
        return detail.Stage(pipeline, Guidance(*guidance))

    def _text(self, pipeline: Pipeline, prompt: str) -> asyncio.Future[Encoded]:
        key = pipeline.descriptor.name, prompt
        if key not in self._texts:
            self._texts[key] = self._start(encode_prompt(pipeline.text_encoders, prompt))
        return self._texts[key]

    def _weight(
        self, prompt: PlannedPrompt, seg: PlannedSeg, latent: torch.Tensor
    ) -> torch.Tensor | None:
        """mask·strength on the latent; None for 1 everywhere."""
        if prompt.mask is None:
            plain = prompt.strength == 1
            return None if plain else torch.full_like(latent[:, :1], prompt.strength)
        x1, y1, x2, y2 = seg.crop_region
        mask = torch.from_numpy(mask_at(self._masks, prompt.mask)[y1:y2, x1:x2])
        return to_latent(mask, *latent.shape[-2:]) * prompt.strength

    def _controls(self, seg: PlannedSeg, encoded: detail.EncodedSeg) -> tuple[Control, ...]:
        schedule = self._base.schedule
        return tuple(
            Control(
                models=self._base.controlnets[control.name],
                hint=hint_for(pixels_at(self._crops, control.hint), *encoded.latent.shape[-2:]),
                strength=control.strength,
                sigma_start=schedule.sigma_at_percent(control.start_percent),
                sigma_end=schedule.sigma_at_percent(control.end_percent),
            )
            for control in seg.controls
        )
