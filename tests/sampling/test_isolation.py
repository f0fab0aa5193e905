"""Requests on real, tiny networks, one of which goes wrong for one SEG: only that SEG fails."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from preprocessing.prepare import Prepared
from request_plan.limits import Limits
from request_plan.packing import pixels_at
from request_plan.refusals import DeadlineExceededError, StoppingError
from runners.in_process import LocalNetworks
from sampling.faults import IncidentError
from sampling.pipeline import Pipeline, load_pipelines
from sampling.program import Tensors
from sampling.service import DetailService, SampledRequest
from segs_client import Seg, Segs
from segs_client.arrays import ByteArray
from tests.sampling.test_work import prepared

T = TypeVar("T")
SIZE = (96, 96)
REGION = (0, 0, 48, 48)
POISON = "poison"
"""The prompt of the SEG that goes wrong; it also has a crop of its own."""
Spoil = Callable[[Tensors, torch.Tensor], Tensors]


@pytest.fixture(scope="module")
def pipelines(repository: Path) -> dict[str, Pipeline]:
    return load_pipelines([repository])


def request_for(pipelines: dict[str, Pipeline], *prompts: str, **options: Any) -> Prepared:
    """One SEG for each prompt; all of one size, so that they can share batches."""
    mask = np.ones((48, 48), np.float32)
    white = np.ones((48, 48, 3), np.float32)
    items = tuple(
        Seg(mask, REGION, REGION, label=prompt, options={"prompt": prompt},
            image=white if prompt == POISON else None)
        for prompt in prompts
    )  # fmt: skip
    return prepared(pipelines, Segs(SIZE, items), **{"steps": 3, "negative": "blurry", **options})


class Shared(LocalNetworks):
    """Networks whose sessions others have opened already; they remember what they were asked."""

    def __init__(self, repository: Path, other: LocalNetworks | None = None) -> None:
        super().__init__([repository], threads=1)
        if other is not None:
            self._sessions = other._sessions
        self.rows: dict[str, list[torch.Tensor]] = {}

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        self.rows.setdefault(network, []).extend(next(iter(inputs.values())).float())
        return await super().run(network, inputs)


class Poisoned(Shared):
    """Spoils what one network answers to rows that it knows."""

    def __init__(
        self,
        repository: Path,
        other: LocalNetworks,
        network: str,
        known: Sequence[torch.Tensor],
        spoil: Spoil,
    ) -> None:
        super().__init__(repository, other)
        self.network, self.known, self.spoil = network, known, spoil
        self.healthy = False

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        outputs = await super().run(network, inputs)
        rows = next(iter(inputs.values())).float()
        bad = torch.tensor([any(_same(row, each) for each in self.known) for row in rows])
        if network != self.network or self.healthy or not bad.any():
            return outputs
        return self.spoil(outputs, bad)


def _same(row: torch.Tensor, other: torch.Tensor) -> bool:
    return row.shape == other.shape and torch.allclose(row, other, atol=1e-3)


@pytest.fixture(scope="module")
def healthy(repository: Path) -> Shared:
    return Shared(repository)


@pytest.fixture(scope="module")
def poison(
    repository: Path, healthy: Shared, pipelines: dict[str, Pipeline]
) -> dict[str, list[torch.Tensor]]:
    """What each network is asked for the poisoned SEG only."""
    seen = []
    for prompt in (POISON, "a face"):
        networks = Shared(repository, healthy)
        serve(DetailService(networks, pipelines), request_for(pipelines, prompt))
        seen.append(networks.rows)
    mine, others = seen
    return {
        network: [row for row in rows if not any(_same(row, each) for each in others[network])]
        for network, rows in mine.items()
    }


def serve(service: DetailService, *requests: Prepared) -> list[SampledRequest | BaseException]:
    async def work() -> list[SampledRequest | BaseException]:
        samples = (service.sample(one.plan, one.crops, one.masks) for one in requests)
        return await asyncio.gather(*samples, return_exceptions=True)

    return in_loop(service, work)


def in_loop(service: DetailService, work: Callable[[], Awaitable[T]]) -> T:
    async def main() -> T:
        serving = asyncio.create_task(service.engine.serve())
        try:
            return await asyncio.wait_for(asyncio.ensure_future(work()), 60)
        finally:
            serving.cancel()

    return asyncio.run(main())


def crops_of(done: SampledRequest | BaseException) -> dict[int, ByteArray]:
    assert isinstance(done, SampledRequest), done
    return {seg.index: pixels_at(done.sampled, seg.pixels) for seg in done.outcome.segs}


def with_value(value: float) -> Spoil:
    def spoil(outputs: Tensors, bad: torch.Tensor) -> Tensors:
        spoiled = {name: tensor.clone() for name, tensor in outputs.items()}
        for tensor in spoiled.values():
            tensor[bad] = value
        return spoiled

    return spoil


def raising(outputs: Tensors, bad: torch.Tensor) -> Tensors:
    raise RuntimeError("/some/path.py: shared memory key 0x7f")


def one_shorter(outputs: Tensors, bad: torch.Tensor) -> Tensors:
    return {name: tensor[..., :-1] for name, tensor in outputs.items()}


FAULTS: dict[str, Spoil] = {
    "NaN": with_value(float("nan")),
    "infinity": with_value(float("inf")),
    "error": raising,
    "shape": one_shorter,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("role", ["text_encoder", "vae_encoder", "unet", "vae_decoder"])
def test_a_fault_in_one_row_fails_one_seg(
    repository: Path,
    pipelines: dict[str, Pipeline],
    healthy: Shared,
    poison: dict[str, list[torch.Tensor]],
    caplog: pytest.LogCaptureFixture,
    role: str,
    fault: str,
) -> None:
    network = f"sd15_{role}"
    prompts = [("a face", POISON, "a hat"), ("a face", "eyes"), ("hair",)]
    requests = [request_for(pipelines, *each) for each in prompts]
    alone = [serve(DetailService(healthy, pipelines), one)[0] for one in requests]
    networks = Poisoned(repository, healthy, network, poison[network], FAULTS[fault])
    service = DetailService(networks, pipelines)
    service.engine.stats.batch_requests.wanted = True
    together = serve(service, *requests)
    assert max(requests for requests, _ in service.engine.stats.batch_requests.take()) > 1

    mine = together[0]
    assert isinstance(mine, SampledRequest)
    (failed,) = mine.outcome.failed
    assert (failed.index, failed.batch_pass, failed.error.code) == (1, 0, "INTERNAL")
    assert failed.error.incident in failed.error.message
    assert not re.search(r"\.py|/|0x", failed.error.message)
    told = [record for record in caplog.records if failed.error.incident in record.getMessage()]
    assert [record.levelno for record in told] == [logging.ERROR]
    assert told[0].exc_info is not None

    for one, among in zip(alone, together, strict=True):
        kept = crops_of(one)
        if among is mine:
            del kept[1]
        found = crops_of(among)
        assert found.keys() == kept.keys()
        for index, crop in kept.items():
            assert np.abs(found[index].astype(int) - crop).max() <= 1
    assert not service.slots.held
    assert len(service.admission) == 0


def test_a_request_whose_segs_all_failed_has_failed(
    repository: Path,
    pipelines: dict[str, Pipeline],
    healthy: Shared,
    poison: dict[str, list[torch.Tensor]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    networks = Poisoned(repository, healthy, "sd15_unet", poison["sd15_unet"], FAULTS["NaN"])
    service = DetailService(networks, pipelines)
    failed, good = serve(
        service, request_for(pipelines, POISON), request_for(pipelines, "a face", batch_size=2)
    )
    assert isinstance(failed, IncidentError)
    assert failed.incident in caplog.text
    assert sorted(crops_of(good)) == [0]


def test_segs_that_fail_for_one_reason_are_one_incident(
    repository: Path, pipelines: dict[str, Pipeline], healthy: Shared,
    poison: dict[str, list[torch.Tensor]], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    network = "sd15_vae_encoder"
    networks = Poisoned(repository, healthy, network, poison[network], FAULTS["error"])
    request = request_for(pipelines, POISON, "a face", POISON, POISON, batch_size=2)
    (done,) = serve(DetailService(networks, pipelines), request)
    assert isinstance(done, SampledRequest)
    assert [(seg.batch_pass, seg.index) for seg in done.outcome.failed] == [
        (0, 0), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3),
    ]  # fmt: skip
    (incident,) = {seg.error.incident for seg in done.outcome.failed}
    assert caplog.text.count(incident) == 1


def test_a_failed_prompt_is_not_kept(
    repository: Path,
    pipelines: dict[str, Pipeline],
    healthy: Shared,
    poison: dict[str, list[torch.Tensor]],
) -> None:
    network = "sd15_text_encoder"
    networks = Poisoned(repository, healthy, network, poison[network], FAULTS["NaN"])
    service = DetailService(networks, pipelines)
    bad, good = request_for(pipelines, POISON), request_for(pipelines, "a face")

    async def sample(*requests: Prepared) -> list[SampledRequest | BaseException]:
        samples = (service.sample(one.plan, one.crops, one.masks) for one in requests)
        return await asyncio.gather(*samples, return_exceptions=True)

    async def work() -> None:
        first, also, other = await sample(bad, bad, good)
        assert isinstance(first, IncidentError)
        assert isinstance(also, IncidentError)  # it asked for the same
        assert sorted(crops_of(other)) == [0]
        networks.healthy = True
        misses = service.texts.misses
        again, _ = await sample(bad, good)
        assert sorted(crops_of(again)) == [0]
        assert service.texts.misses == misses + 1  # the poison alone

    in_loop(service, work)


def test_what_overflows_only_with_its_weight_is_not_kept(
    repository: Path,
    pipelines: dict[str, Pipeline],
    healthy: Shared,
    poison: dict[str, list[torch.Tensor]],
) -> None:
    network = "sd15_text_encoder"
    networks = Poisoned(repository, healthy, network, poison[network], with_value(1e35))
    service = DetailService(networks, pipelines)
    failed, good = serve(
        service, request_for(pipelines, f"({POISON}:999)"), request_for(pipelines, "a face")
    )
    assert isinstance(failed, IncidentError)
    assert sorted(crops_of(good)) == [0]
    assert {prompt for _, prompt in service.texts._kept} == {"a face", "blurry"}


class Gated(Shared):
    """Holds every batch of the UNet until it is let go."""

    def __init__(self, repository: Path, other: LocalNetworks) -> None:
        super().__init__(repository, other)
        self.gate = asyncio.Semaphore(0)
        self.batches: list[int] = []

    async def run(self, network: str, inputs: Tensors) -> Tensors:
        if network == "sd15_unet":
            self.batches.append(len(next(iter(inputs.values()))))
            await self.gate.acquire()
        return await super().run(network, inputs)

    async def reach(self, count: int) -> None:
        """Waits until so many batches have come."""
        while len(self.batches) < count:
            await asyncio.sleep(0.001)


def test_a_cancelled_request_leaves_everything_within_a_step(
    repository: Path, healthy: Shared, pipelines: dict[str, Pipeline]
) -> None:
    async def main() -> None:
        networks = Gated(repository, healthy)
        service = DetailService(networks, pipelines, Limits(max_live_segs=3))
        for size in (1, 2):  # as if batches had been measured: everything may share them
            service.engine.costs.observe("sd15_unet", size, 1e-6)
        serving = asyncio.create_task(service.engine.serve())
        large = request_for(pipelines, *["a face"] * 5, steps=8)
        small = request_for(pipelines, "a face", steps=8)
        tasks = [
            asyncio.create_task(service.sample(one.plan, one.crops, one.masks))
            for one in (large, small)
        ]
        await networks.reach(1)
        while len(service.slots.held) < 2 or not service.slots._waiting:
            await asyncio.sleep(0.001)
        networks.gate.release()
        await networks.reach(2)
        tasks[0].cancel()
        await asyncio.sleep(0)
        await asyncio.wait([tasks[0]], timeout=30)
        assert tasks[0].cancelled()
        assert (service.slots.live, len(service.admission)) == (1, 1)
        assert not service.slots._waiting
        for _ in range(100):
            networks.gate.release()
        done = await asyncio.wait_for(tasks[1], 30)
        # What was under way went on; after it every batch was the small one's, two rows.
        assert set(networks.batches[3:]) == {2}
        assert sorted(crops_of(done)) == [0]
        assert not service.slots.held
        assert not service.engine._groups
        serving.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_deadline_ends_a_request_whatever_it_waits_for(
    repository: Path, healthy: Shared, pipelines: dict[str, Pipeline]
) -> None:
    async def main() -> None:
        networks = Gated(repository, healthy)
        service = DetailService(networks, pipelines, Limits(max_live_segs=1))
        serving = asyncio.create_task(service.engine.serve())
        one = request_for(pipelines, "a face", "a hat")
        for limit_s in (0.3, -1.0):
            plan = one.plan.model_copy(update={"deadline_s": time.time() + limit_s})
            with pytest.raises(DeadlineExceededError):
                await asyncio.wait_for(service.sample(plan, one.crops, one.masks), 10)
            assert (service.slots.live, len(service.admission)) == (0, 0)
        serving.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_engine_that_ends_answers_every_request(
    repository: Path, healthy: Shared, pipelines: dict[str, Pipeline]
) -> None:
    async def main() -> None:
        networks = Gated(repository, healthy)
        service = DetailService(networks, pipelines, Limits(max_live_segs=1))
        serving = asyncio.create_task(service.engine.serve())
        one = request_for(pipelines, "a face", "a hat")
        under_way = asyncio.create_task(service.sample(one.plan, one.crops, one.masks))
        await networks.reach(1)
        serving.cancel()
        for task in (under_way, service.sample(one.plan, one.crops, one.masks)):
            with pytest.raises(StoppingError):
                await asyncio.wait_for(task, 10)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_array_work_that_raises_fails_its_seg(
    healthy: Shared, pipelines: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = DetailService(healthy, pipelines)
    arrays, calls = service.threads.arrays, iter(range(100))

    async def failing(work: Callable[[], T]) -> T:
        if next(calls) == 0:
            raise MemoryError
        return await arrays(work)

    monkeypatch.setattr(service.threads, "arrays", failing)
    (done,) = serve(service, request_for(pipelines, "a face", POISON))
    assert isinstance(done, SampledRequest)
    assert len(done.outcome.failed) == len(done.outcome.segs) == 1
