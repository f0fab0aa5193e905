"""SEGs without a server: one from end to end, and many at once on the step engine."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.gpu.cases import Case, Options, Row, left_of, tflops
from benchmarks.gpu.pipeline import NAME, UNET, RandomPipeline, random_pipeline
from benchmarks.workload import request
from preprocessing.prepare import Prepared, prepare
from runners.in_process import LocalDetailer, LocalNetworks, TimedBatch
from sampling.pipeline import load_pipelines
from sampling.service import DetailService

ROLES = ("text_encoder", "vae_encoder", "unet", "vae_decoder")
_MODES = ("graphs", "eager")
_MOST_ROUNDS = 10
_WARM_UPS = 3
"""SEGs that are not counted: the first chooses kernels, the second captures graphs."""


def seg(options: Options, stack: ExitStack) -> list[Case]:
    """One row per mode."""
    made = random_pipeline(options)
    stack.callback(made.free)
    return [Case({"mode": mode}, partial(_one, made, mode)) for mode in reversed(_MODES)]


def _one(made: RandomPipeline, mode: str, seconds: float) -> Row:
    begun_s = time.monotonic()
    networks = made.networks(mode)
    until_s = time.monotonic() + left_of(seconds, begun_s)
    local = LocalDetailer([made.repository], networks=networks)
    taken: list[tuple[float, list[TimedBatch]]] = []
    while len(taken) < _WARM_UPS + 1 or (
        time.monotonic() < until_s and len(taken) < _WARM_UPS + _MOST_ROUNDS
    ):
        inputs = request(made.kind, len(taken)).inputs(NAME)
        networks.calls.clear()
        start_s = time.perf_counter()
        local.detail(inputs)
        taken.append((time.perf_counter() - start_s, list(networks.calls)))
    counted = taken[_WARM_UPS:]
    seg_s = statistics.median(seconds for seconds, _ in counted)
    taken_s, calls = min(counted, key=lambda each: abs(each[0] - seg_s))
    spent = {
        role: sum(call.seconds for call in calls if call.network == f"{NAME}_{role}")
        for role in ROLES
    }
    rows = sum(call.rows for call in calls if call.network == UNET)
    return {
        "SEGs": len(counted),
        "s": round(seg_s, 4),
        **split(spent, taken_s),
        "TFLOP/s": tflops(rows * made.row_flops, taken_s),
    }


def split(spent: Mapping[str, float], seconds: float) -> Row:
    """Where a SEG's time goes: in its networks, by their roles, and outside them."""
    encoding_s = spent["text_encoder"] + spent["vae_encoder"]
    known = {"encode": encoding_s, "denoise": spent["unet"], "decode": spent["vae_decoder"]}
    rest_s = seconds - sum(known.values())
    return {name: f"{part / seconds:.1%}" for name, part in {**known, "rest": rest_s}.items()}


def engine(options: Options, stack: ExitStack) -> list[Case]:
    """One row per mode and number of callers."""
    made = random_pipeline(options)
    stack.callback(made.free)
    return [
        Case({"mode": mode, "callers": callers}, partial(_crowd, made, mode, callers))
        for mode in _MODES
        for callers in options.callers
    ]


def _crowd(made: RandomPipeline, mode: str, callers: int, seconds: float) -> Row:
    begun_s = time.monotonic()
    networks = made.networks(mode)
    return asyncio.run(_closed_loop(made, networks, callers, left_of(seconds, begun_s)))


async def _closed_loop(
    made: RandomPipeline, networks: LocalNetworks, callers: int, seconds: float
) -> Row:
    """Callers who each have their next SEG sampled when they have the last one. Requests are
    prepared before."""
    pipelines = load_pipelines([made.repository])
    descriptors = {name: pipe.descriptor for name, pipe in pipelines.items()}
    service = DetailService(networks, pipelines)
    serving = asyncio.create_task(service.engine.serve())

    async def caller(own: Sequence[Prepared]) -> None:
        for each in own:
            await service.sample(each.plan, each.crops, each.masks)

    sent = 0

    async def wave(rounds: int) -> float:
        nonlocal sent
        requests = [request(made.kind, sent + index) for index in range(callers * rounds)]
        sent += len(requests)
        ready = [prepare(each.inputs(NAME), pipelines=descriptors) for each in requests]
        start_s = time.perf_counter()
        await asyncio.gather(*(caller(ready[nth::callers]) for nth in range(callers)))
        return time.perf_counter() - start_s

    try:
        begun_s = time.monotonic()
        round_s = await wave(warm_ups(callers)) / warm_ups(callers)
        rounds = rounds_within(left_of(seconds, begun_s), round_s)
        networks.calls.clear()
        taken_s = await wave(rounds)
    finally:
        serving.cancel()
    batches = [call.rows for call in networks.calls if call.network == UNET]
    return throughput(made, callers * rounds, taken_s, sum(batches), len(batches))


def warm_ups(callers: int) -> int:
    """Rounds that are not counted."""
    return _WARM_UPS if callers == 1 else 1


def rounds_within(seconds: float, round_s: float) -> int:
    """How many rounds fit, two at least."""
    return max(2, min(_MOST_ROUNDS, int(seconds / round_s)))


def throughput(made: RandomPipeline, segs: int, seconds: float, rows: float, batches: float) -> Row:
    """What so many SEGs in so many seconds are, with the UNet's rows and batches among them."""
    return {
        "SEGs": segs,
        "SEGs/s": round(segs / seconds, 3),
        "rows a batch": round(rows / batches, 1) if batches else "",
        "TFLOP/s": tflops(rows * made.row_flops, seconds),
    }
