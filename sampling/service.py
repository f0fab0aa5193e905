"""Whole requests on the step engine: all SEGs of all requests run at once.

An error of a SEG fails that SEG. An error of the whole request (its deadline, a server that is full
or being stopped) ends the request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from request_plan.limits import DEFAULT, Limits
from request_plan.packing import Packer
from request_plan.plan import Plan, SampledSeg, SampleOutcome
from request_plan.priority import PRIORITY_WEIGHTS
from request_plan.refusals import DeadlineExceededError
from sampling.admission import Admission
from sampling.engine import Networks, OnDevice, StepEngine
from sampling.pipeline import Pipeline, device_of, network_table
from sampling.policy import Requester
from sampling.progress import RequestListener
from sampling.request_work import RequestWork, Shared
from sampling.slots import Slots
from sampling.statistics import Counter, DetailStats, EngineStats
from sampling.text_cache import TextCache
from sampling.threads import WorkThreads
from sampling.work import Estimator
from segs_client.arrays import ByteArray

T = TypeVar("T")


@dataclass(frozen=True)
class SampledRequest:
    """The outcome and the flat uint8 tensor of decoded crops that it refers to."""

    outcome: SampleOutcome
    sampled: ByteArray


class DetailService:
    """The engine and the parts that requests share: prompt cache, slots, admission.

    To be created and used in one event loop; the engine's :meth:`~StepEngine.serve` must run there.

    Args:
        device: of latents and other tensors of the steps; None: the GPU that the pipelines'
            networks are on, else the CPU.
    """

    def __init__(
        self,
        networks: Networks,
        pipelines: Mapping[str, Pipeline],
        limits: Limits = DEFAULT,
        device: torch.device | None = None,
    ) -> None:
        self.pipelines = pipelines
        self.limits = limits
        self.device = device or device_of(pipelines.values())
        networks = OnDevice(networks, self.device)
        table = network_table(pipelines.values())
        stats = EngineStats(batch_failures=Counter([(name,) for name in table]))
        self.engine = StepEngine(networks, table, stats=stats)
        self.texts = TextCache(self.engine, limits.text_cache_bytes)
        self.slots = Slots(limits.max_live_segs)
        self.admission = Admission(limits)
        self.stats = DetailStats()
        self._estimator = Estimator(pipelines, self.engine.costs)
        self.threads = WorkThreads()
        self._shared = Shared(
            pipelines, limits, self.engine, self.texts, self.slots, self.stats, self.threads
        )

    async def sample(
        self,
        plan: Plan,
        crops: ByteArray,
        masks: ByteArray,
        listeners: Sequence[RequestListener] = (),
    ) -> SampledRequest:
        """Samples every SEG that the plan does not skip, in every pass.

        Args:
            crops, masks: the flat tensors that the plan refers to.
            listeners: called from the event loop.

        Raises:
            OverloadedError: the request is not admitted; nothing was started.
            DeadlineExceededError: the plan's deadline passed; all work of the request has ended.
            IncidentError: all SEGs have failed.
        """
        start_s = time.perf_counter()
        weight = PRIORITY_WEIGHTS[plan.request.priority]
        requester = Requester(plan.request_id, plan.deadline_s, weight)
        if not self._estimator.has_counted(plan):
            await self.threads.checks(lambda: self._estimator.count(plan))
        self.admission.admit(requester, self._estimator.estimate(plan), plan.memory_bytes, start_s)
        try:
            if listeners:
                standing = self.admission.standing(requester)
                for each in listeners:
                    each.accepted(*standing, self.pipelines[plan.request.pipeline])
            work = RequestWork(self._shared, requester, plan, crops, masks, listeners).run()
            done, failed = await _in_time(work, plan.deadline_s)
        finally:
            self.admission.leave(requester)
            for each in listeners:
                each.ended()
        packer = Packer()
        segs = tuple(
            SampledSeg(
                index=one.seg,
                batch_pass=one.batch_pass,
                status=one.status,
                pixels=packer.add(one.pixels),
                seed=one.seed,
                steps_run=one.steps_run,
                sample_s=one.sample_s,
            )
            for one in done
        )
        outcome = SampleOutcome(segs=segs, failed=failed, sample_s=time.perf_counter() - start_s)
        return SampledRequest(outcome, packer.tensor())


async def _in_time(work: Coroutine[Any, Any, T], deadline_s: float | None) -> T:
    """The work's result; cancels the work at the deadline (``time.time()``)."""
    if deadline_s is None:
        return await work
    try:
        return await asyncio.wait_for(work, max(0.0, deadline_s - time.time()))
    except asyncio.TimeoutError:
        raise DeadlineExceededError from None
