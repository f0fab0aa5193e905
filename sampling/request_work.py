"""The work of one request: a task for each pass of its SEGs, and the results that they share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

from request_plan.limits import Limits
from request_plan.packing import mask_at, mask_window_at, pixels_at
from request_plan.plan import FailedSeg, Piece, Plan, PlannedPrompt, PlannedSeg
from request_plan.refusals import DeadlineExceededError, UnavailableError
from sampling import detail, vae
from sampling.conditioning import Conditioning, Encoded, Guidance
from sampling.control import hint_for
from sampling.engine import StepEngine
from sampling.faults import IncidentError, NotFiniteError, incident_message, open_incident
from sampling.masks import feather, to_latent
from sampling.pipeline import Pipeline
from sampling.policy import Requester
from sampling.program import Program
from sampling.progress import BatchListener, PassStage, RequestListener, SampledPass, all_of
from sampling.slots import Slots
from sampling.statistics import DetailStats
from sampling.text import check_common_length, check_prompt
from sampling.text_cache import TextCache
from sampling.threads import WorkThreads
from sampling.unet import Control
from segs_client.arrays import ByteArray
from segs_client.contract import ContractError, SegError
from segs_client.seeds import pass_seed

T = TypeVar("T")
_Encoding = tuple[PlannedPrompt, "asyncio.Future[Encoded]"]
_REQUEST_WIDE = (ContractError, DeadlineExceededError, UnavailableError)
"""Errors that end the whole request; all others fail one SEG."""


@dataclass(frozen=True)
class Shared:
    """Shared by all requests of one engine."""

    pipelines: Mapping[str, Pipeline]
    limits: Limits
    engine: StepEngine
    texts: TextCache
    slots: Slots
    stats: DetailStats
    threads: WorkThreads


class RequestWork:
    """The tasks of one request. Each crop is encoded once."""

    def __init__(
        self,
        shared: Shared,
        requester: Requester,
        plan: Plan,
        crops: ByteArray,
        masks: ByteArray,
        listeners: Sequence[RequestListener] = (),
    ) -> None:
        self._shared = shared
        self._requester = requester
        self._reader = Requester(requester.request_id, weight=requester.weight)
        """The requester of encoding prompts. It has no deadline, because other requests may wait
        for the same prompt."""
        self._plan = plan
        self._crops = crops
        self._masks = masks
        self._listeners = listeners
        self._tasks: list[asyncio.Future[Any]] = []
        self._started: dict[Hashable, asyncio.Future[Any]] = {}
        self._last_error: Exception | None = None
        self._incidents: dict[tuple[type[Exception], str], str] = {}
        request = plan.request
        self._base = shared.pipelines[request.pipeline]
        refiner = request.refiner
        self._refiner = None if refiner is None else shared.pipelines[refiner.pipeline]

    async def run(self) -> tuple[list[SampledPass], tuple[FailedSeg, ...]]:
        """Runs every pass of every SEG; returns the sampled and the failed ones, both in the plan's
        order.

        Passes start in the order of their crops' sizes, so that running ones can share batches.

        Raises:
            ContractError: a prompt, or a SEG's prompts together, exceed a limit.
            IncidentError: all SEGs have failed.
        """
        await self._check_prompts()
        chosen = [(index, seg, seg.crop) for index, seg in enumerate(self._plan.segs) if seg.crop]
        chosen.sort(key=lambda one: (one[2].height, one[2].width))
        passes = [
            asyncio.ensure_future(self._in_place(index, seg, crop, batch_pass))
            for index, seg, crop in chosen
            for batch_pass in range(self._plan.request.batch_size)
        ]
        self._tasks += passes
        try:
            ended = await asyncio.gather(*passes)
        finally:
            for task in self._tasks:
                task.cancel()
        done = [one for one in ended if isinstance(one, SampledPass)]
        failed = [one for one in ended if isinstance(one, FailedSeg)]
        if failed and not done:
            raise IncidentError(failed[0].error.incident) from self._last_error
        return (
            sorted(done, key=lambda one: (one.batch_pass, one.seg)),
            tuple(sorted(failed, key=lambda one: (one.batch_pass, one.index))),
        )

    async def _check_prompts(self) -> None:
        """Checks the tokens of every prompt that is not in the cache, before any is encoded."""
        cache, limits = self._shared.texts, self._shared.limits
        used = [(self._base, {each.text for seg in self._plan.segs for each in _texts(seg)})]
        if self._refiner is not None:
            refined = {each.text for seg in self._plan.segs for each in _refined(seg)}
            used.append((self._refiner, refined))
        new = [(of, text) for of, texts in used for text in texts if not cache.contains(of, text)]

        def check() -> None:
            for pipeline, text in new:
                check_prompt(pipeline.text_encoders, text, limits)

        if new:
            await self._shared.threads.checks(check)

    async def _in_place(
        self, index: int, seg: PlannedSeg, crop: Piece, batch_pass: int
    ) -> SampledPass | FailedSeg:
        async with self._shared.slots.place(self._requester):
            for each in self._listeners:
                each.started(index, batch_pass)
            try:
                done = await self._detail(index, seg, crop, batch_pass)
                for each in self._listeners:
                    each.done(done)
                return done
            except _REQUEST_WIDE:
                raise
            except Exception as error:
                self._last_error = error
                failed = FailedSeg(
                    index=index,
                    batch_pass=batch_pass,
                    seed=pass_seed(seg.seed, batch_pass),
                    error=self._seg_error(error, index, batch_pass),
                )
                for each in self._listeners:
                    each.failed(failed)
                return failed

    def _seg_error(self, error: Exception, index: int, batch_pass: int) -> SegError:
        """The error of a SEG for the report; its traceback is logged."""
        kind = type(error), str(error)
        if kind not in self._incidents:  # many SEGs may fail for one reason
            where = f", segs.{index}, pass {batch_pass}"
            self._incidents[kind] = open_incident(error, self._plan.request_id, where)
        incident = self._incidents[kind]
        not_finite = isinstance(error, NotFiniteError)
        what = "its values became NaN or infinite" if not_finite else "internal error"
        return SegError(
            code="INTERNAL", message=incident_message(incident, what), incident=incident
        )

    async def _run(self, program: Program[T], batch_listener: BatchListener | None) -> T:
        return await self._shared.engine.run(program, self._requester, batch_listener)

    def _once(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """The result of work that is done once per key. A failure is raised in all callers that
        wait for it, and not kept."""
        if key not in self._started:
            task = asyncio.ensure_future(start())
            task.add_done_callback(partial(self._forget_failed, key))
            self._started[key] = task
            self._tasks.append(task)
        return self._started[key]

    def _forget_failed(self, key: Hashable, task: asyncio.Future[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            del self._started[key]

    async def _encode(
        self, seg: PlannedSeg, crop: Piece, batch_listener: BatchListener | None
    ) -> detail.EncodedSeg:
        """The crop's latent and the mask on it."""
        request = self._plan.request
        pixels = pixels_at(self._crops, crop)
        reading = None
        if request.noise_mask:
            reading = self._once(("mask", seg.mask), lambda: self._mask(seg.mask))
        place = ("latent", crop)
        self._shared.stats.crops.add("crop", "hit" if place in self._started else "miss")
        latent = await self._once(place, lambda: self._latent(pixels, batch_listener))
        mask = None if reading is None else await reading
        return await self._once(
            ("both", crop, seg.mask),
            lambda: self._run(
                detail.encode(self._base, request, pixels, latent, mask), batch_listener
            ),
        )

    async def _latent(
        self, pixels: ByteArray, batch_listener: BatchListener | None
    ) -> torch.Tensor:
        values = await self._shared.threads.arrays(lambda: vae.to_values(pixels))
        return await self._run(vae.encode(self._base.descriptor, values), batch_listener)

    async def _mask(self, place: Piece) -> torch.Tensor:
        """A SEG's feathered mask; takes up to 0.1 s."""
        mask = torch.from_numpy(mask_at(self._masks, place))
        radius = self._plan.request.noise_mask_feather
        return await self._shared.threads.arrays(lambda: feather(mask, radius))

    async def _detail(
        self, index: int, seg: PlannedSeg, crop: Piece, batch_pass: int
    ) -> SampledPass:
        start_s = time.perf_counter()
        batch_listener = all_of(each.batch_listener(index, batch_pass) for each in self._listeners)
        # All prompts are queued at once, so that they share a batch.
        texts = self._sides(self._base, seg, (seg.positives, seg.negatives), batch_listener)
        refiner_texts = None
        if self._refiner is not None:
            sides = seg.refiner_positives, seg.refiner_negatives
            refiner_texts = self._sides(self._refiner, seg, sides, batch_listener)
        encoded = await self._encode(seg, crop, batch_listener)
        base = await self._stage(self._base, seg, encoded, texts)
        refiner = None
        if self._refiner is not None and refiner_texts is not None:
            refiner = await self._stage(self._refiner, seg, encoded, refiner_texts)
        program = detail.detail(
            replace(base, controls=self._controls(seg, encoded)),
            refiner,
            self._plan.request,
            seg,
            encoded,
            batch_pass,
            all_of(each.step_listener(index, batch_pass) for each in self._listeners),
        )
        encoded_s = time.perf_counter()
        self._enter(index, batch_pass, "sample")
        sampled = await self._run(program, batch_listener)
        sampled_s = time.perf_counter()
        self._enter(index, batch_pass, "decode")
        decoded = await self._run(vae.decode(self._base.descriptor, sampled.latent), batch_listener)
        pixels = await self._shared.threads.arrays(lambda: vae.to_pixels(decoded))
        end_s = time.perf_counter()
        stage_seconds = self._shared.stats.stage_seconds
        stage_seconds.add(encoded_s - start_s, "encode")
        stage_seconds.add(sampled_s - encoded_s, "sample")
        stage_seconds.add(end_s - sampled_s, "decode")
        seconds = end_s - start_s
        seed = pass_seed(seg.seed, batch_pass)
        return SampledPass(index, batch_pass, pixels, seed, sampled.steps_run, seconds)

    def _enter(self, index: int, batch_pass: int, part: PassStage) -> None:
        for each in self._listeners:
            each.entered(index, batch_pass, part)

    def _sides(
        self,
        pipeline: Pipeline,
        seg: PlannedSeg,
        sides: tuple[Sequence[PlannedPrompt], Sequence[PlannedPrompt]],
        batch_listener: BatchListener | None,
    ) -> list[list[_Encoding]]:
        """Both sides' prompts, each with the future of its encoding."""
        positives, negatives = sides
        needed = negatives if detail.needs_negative(self._plan.request, seg) else ()
        encode = self._shared.texts.encode
        return [
            [(each, encode(pipeline, each.text, batch_listener, self._reader)) for each in prompts]
            for prompts in (positives, needed)
        ]

    async def _stage(
        self,
        pipeline: Pipeline,
        seg: PlannedSeg,
        encoded: detail.EncodedSeg,
        sides: list[list[_Encoding]],
    ) -> detail.Stage:
        guidance = []
        for side in sides:
            conditionings = [
                Conditioning(await text, self._weight(prompt, seg, encoded.latent))
                for prompt, text in side
            ]
            guidance.append(tuple(conditionings))
        both = Guidance(*guidance)
        check_common_length(both.tokens, self._shared.limits)
        return detail.Stage(pipeline, both)

    def _weight(
        self, prompt: PlannedPrompt, seg: PlannedSeg, latent: torch.Tensor
    ) -> torch.Tensor | None:
        """mask·strength on the latent; None for 1 everywhere."""
        if prompt.mask is None:
            plain = prompt.strength == 1
            return None if plain else torch.full_like(latent[:, :1], prompt.strength)
        mask = torch.from_numpy(mask_window_at(self._masks, prompt.mask, seg.crop_region))
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


def _texts(seg: PlannedSeg) -> Sequence[PlannedPrompt]:
    return (*seg.positives, *seg.negatives)


def _refined(seg: PlannedSeg) -> Sequence[PlannedPrompt]:
    return (*seg.refiner_positives, *seg.refiner_negatives)
