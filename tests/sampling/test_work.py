"""What a request will ask of the networks, held against what it then does ask."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.prepare import Prepared, RequestTensors, prepare
from runners.in_process import LocalNetworks
from sampling.costs import CostModel
from sampling.pipeline import Pipeline, load_pipelines
from sampling.service import DetailService
from sampling.work import Estimator
from segs_client import Seg, Segs
from segs_client.contract import ContractError, ControlNet
from segs_client.messages import build
from tests.conftest import CONTROLNET
from tests.cpu import is_cheap

PICTURE = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
ONE = Segs.from_boxes([(16, 16, 48, 48)], size=(96, 96))
TWO = Segs.from_boxes([(16, 16, 48, 48), (40, 40, 72, 72)], size=(96, 96))
SMALL = {"guide_size": 64, "max_size": 64, "crop_factor": 1.0}


MANY = Segs.from_boxes(
    [(8, 8, right, bottom) for right, bottom in ((40, 48), (42, 48), (44, 48), (48, 45), (48, 50))],
    size=(96, 96),
    crop_factor=1.0,
)


class Flat(CostModel):
    """As if a batch cost the same whatever its rows, so that all calls share it that can."""

    def batch_s(self, network: str, size: int) -> float:
        return 1.0


@pytest.fixture(scope="module")
def pipelines(repository: Path) -> dict[str, Pipeline]:
    return load_pipelines([repository])


def prepared(pipelines: dict[str, Pipeline], segs: Segs = ONE, **options: Any) -> Prepared:
    built = build(PICTURE, segs, **{"pipeline": "sd15", **SMALL, **options})
    inputs = RequestTensors(
        built.request.model_dump_json().encode(), built.image, built.masks, built.seg_images
    )
    descriptors = {name: pipeline.descriptor for name, pipeline in pipelines.items()}
    return prepare(inputs, pipelines=descriptors)


class Counted(LocalNetworks):
    """Networks that remember (network, rows) of every call, an ensemble's as one."""

    def __init__(self, repository: Path) -> None:
        super().__init__([repository])
        self.asked: list[tuple[str, int]] = []
        self._inside = 0

    async def run(self, network: str, inputs: Any) -> Any:
        if not self._inside:
            self.asked.append((network, next(iter(inputs.values())).shape[0]))
        self._inside += 1
        try:
            return await super().run(network, inputs)
        finally:
            self._inside -= 1


def serve(service: DetailService, *rounds: Sequence[Prepared]) -> None:
    """Runs some requests at once, then those of the next round."""

    async def main() -> None:
        serving = asyncio.create_task(service.engine.serve())
        for requests in rounds:
            work = (service.sample(one.plan, one.crops, one.masks) for one in requests)
            await asyncio.gather(*work)
        serving.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_segs_of_many_sizes_share_batches_at_common_ones(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    steps, batches = 3, {}
    for shapes in ("exact", "throughput"):
        networks = Counted(repository)
        service = DetailService(networks, pipelines)
        service.engine.costs = Flat()
        sizes = {"guide_size": 96, "max_size": 128}
        serve(service, [prepared(pipelines, MANY, shapes=shapes, steps=steps, **sizes)])
        batches[shapes] = [rows for network, rows in networks.asked if network == "sd15_unet"]
    assert sum(batches["throughput"]) == sum(batches["exact"]) == 2 * steps * len(MANY)
    assert len(batches["throughput"]) < len(batches["exact"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler_name": "heun", "steps": 5},
        {"sampler_name": "dpm_2", "denoise": 0.5, "steps": 4},
        {"sampler_name": "dpmpp_sde", "steps": 3},
        {"sampler_name": "seeds_3", "steps": 3, "scheduler": "karras"},
        {"cfg": 1.0, "steps": 3},
        {"steps": 3, "cycle": 2},
        {"steps": 4, "controlnets": [ControlNet(name=CONTROLNET, end_percent=0.5)]},
        {"steps": 2, "controlnets": [ControlNet(name=CONTROLNET), ControlNet(name=CONTROLNET)]},
        {"pipeline": "sdxl", "refiner": {"pipeline": "sdxl-refiner"}, "steps": 5},
        {"pipeline": "sd15-inpaint", "inpaint_model": True, "steps": 3},
    ],
    ids=str,
)
def test_the_calls_are_those_that_follow(
    repository: Path, pipelines: dict[str, Pipeline], options: dict[str, Any]
) -> None:
    one = prepared(pipelines, **options)
    expected: Counter[tuple[str, int]] = Counter()
    for calls in Estimator(pipelines, CostModel()).calls(one.plan.request, one.plan.segs[0]):
        expected[calls.network, calls.rows] += round(calls.count)
    networks = Counted(repository)
    serve(DetailService(networks, pipelines), [one])
    asked = Counter(call for call in networks.asked if "text_encoder" not in call[0])
    assert asked == expected


def test_a_request_of_many_options_is_counted_once_or_twice(pipelines: dict[str, Pipeline]) -> None:
    """Each SEG has its own strength: they need as many calls all the same."""
    segs = Segs.from_boxes([(16, 16, 48, 48)] * 50, size=(96, 96))
    items = [
        replace(seg, options={"denoise": 0.3 + index / 100, "cfg": 2 + index / 10})
        for index, seg in enumerate(segs)
    ]
    one = prepared(pipelines, Segs((96, 96), tuple(items)), sampler_name="dpmpp_sde", steps=500)
    estimator = Estimator(pipelines, CostModel())
    assert not estimator.has_counted(one.plan)
    assert is_cheap(lambda: Estimator(pipelines, CostModel()).count(one.plan), 400)
    estimator.count(one.plan)
    assert estimator.has_counted(one.plan)


def test_a_prompt_that_is_too_much_is_refused_before_any_network_is_called(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    networks = Counted(repository)
    service = DetailService(networks, pipelines)
    with pytest.raises(ContractError, match="too many tokens"):
        serve(service, [prepared(pipelines, steps=1, prompt="a face", negative="a " * 3000)])
    assert networks.asked == []
    assert len(service.admission) == 0


def test_prompts_are_encoded_in_turn_with_the_steps_of_others(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    """Twelve new prompts are not twelve newcomers, who go first."""
    networks = Counted(repository)
    service = DetailService(networks, pipelines)
    run, texts = service.engine.run, set()

    async def spy(program: Any, requester: Any = None, batch_listener: Any = None) -> Any:
        if program.__name__ == "encode_prompt":
            texts.add((requester, requester.request_id, requester.weight, requester.deadline_s))
        return await run(program, requester, batch_listener)

    service.engine.run = spy  # type: ignore[method-assign]
    items = tuple(
        Seg(mask=np.ones((32, 32), np.float32), bbox=(8, 8, 40, 40), crop_region=(8, 8, 40, 40),
            options={"prompt": f"face {number}"})
        for number in range(12)
    )  # fmt: skip
    one = prepared(pipelines, Segs((96, 96), items), steps=1, priority="high")
    serve(service, [one], [prepared(pipelines, steps=1, prompt="another")])
    assert len(texts) == 2
    assert {deadline_s for *_, deadline_s in texts} == {None}
    assert sorted(weight for _, _, weight, _ in texts)[0] == 1.0


def test_a_seg_that_is_not_sampled_says_nothing_of_others(pipelines: dict[str, Pipeline]) -> None:
    options: dict[str, Any] = {"scheduler": "ddim_uniform", "steps": 20}
    nothing = prepared(pipelines, denoise=0.01, **options)
    much = prepared(pipelines, denoise=0.5, **options)
    estimator = Estimator(pipelines, CostModel())
    estimator.count(nothing.plan)
    estimator.count(much.plan)
    assert estimator.has_counted(much.plan)
    unet = pipelines["sd15"].unet.model
    calls = list(estimator.calls(much.plan.request, much.plan.segs[0]))
    assert [round(each.count) for each in calls if each.network == unet] == [20]


def test_prompts_of_lengths_that_do_not_fit_together_are_refused_before_they_are_repeated(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    networks = Counted(repository)
    service = DetailService(networks, pipelines)
    long, longer = "a " * 75 * 8, "a " * 75 * 9
    with pytest.raises(ContractError, match=r"lengths do not fit together .*72 chunks.* up to 64"):
        serve(service, [prepared(pipelines, TWO, steps=1, prompt=long, negative=longer)])
    assert pipelines["sd15"].unet.model not in {network for network, _ in networks.asked}
    assert len(service.admission) == 0
    another = DetailService(networks, pipelines)
    serve(another, [prepared(pipelines, steps=1, prompt=long, negative=long[: 75 * 2 * 2])])
    assert pipelines["sd15"].unet.model in {network for network, _ in networks.asked}


def test_long_runs_are_counted_short_and_scaled(pipelines: dict[str, Pipeline]) -> None:
    one = prepared(pipelines, steps=1000)
    unet = pipelines["sd15"].unet.model
    calls = list(Estimator(pipelines, CostModel()).calls(one.plan.request, one.plan.segs[0]))
    assert [round(each.count) for each in calls if each.network == unet] == [1000]


def test_work_is_told_in_seconds_once_the_networks_are_measured(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    service = DetailService(LocalNetworks([repository]), pipelines)
    estimator = Estimator(pipelines, service.engine.costs)
    one, two = prepared(pipelines, steps=8), prepared(pipelines, TWO, steps=8, batch_size=2)
    assert estimator.estimate(one.plan) is None
    serve(service, [one], [one])
    work, fourfold = estimator.estimate(one.plan), estimator.estimate(two.plan)
    assert work is not None
    assert fourfold is not None
    assert 0 < work.shared_s <= work.alone_s * 1.01
    assert fourfold.shared_s == pytest.approx(4 * work.shared_s)
    assert work.alone_s < fourfold.alone_s <= 4 * work.alone_s * 1.01


def test_a_skipped_seg_is_no_work(pipelines: dict[str, Pipeline]) -> None:
    large = Segs.from_boxes([(0, 0, 90, 90)], size=(96, 96))
    one = prepared(pipelines, large, force_inpaint=False)
    work = Estimator(pipelines, CostModel()).estimate(one.plan)
    assert work is not None
    assert (work.alone_s, work.shared_s) == (0, 0)


def test_prompts_are_encoded_once_for_all_requests(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    networks = Counted(repository)
    service = DetailService(networks, pipelines)
    one = prepared(pipelines, steps=1, prompt="a face", negative="blurred")
    again = prepared(pipelines, steps=1, prompt="a face", negative="a face")
    serve(service, [one, again], [one])
    texts = [rows for network, rows in networks.asked if "text_encoder" in network]
    assert sum(texts) == 2
    assert (service.texts.misses, service.texts.hits) == (2, 4)
    assert service.texts.kept_bytes > 0


def test_kept_prompts_are_bounded(repository: Path, pipelines: dict[str, Pipeline]) -> None:
    service = DetailService(LocalNetworks([repository]), pipelines)
    texts = service.texts
    texts.max_bytes = 2 * 77 * pipelines["sd15"].descriptor.context_dim * 4  # two prompts
    said = [
        [prepared(pipelines, steps=1, prompt=prompt, negative=prompt)]
        for prompt in ("first", "second", "first", "third", "first", "second")
    ]
    serve(service, *said)
    assert texts.kept_bytes == texts.max_bytes
    assert texts.misses == 4  # the second was asked for longest ago when the third came


def test_a_deadline_of_one_ends_no_prompt_of_another(
    repository: Path, pipelines: dict[str, Pipeline]
) -> None:
    """Both wait for the same encoding; one of them is gone before it is there."""

    async def main() -> None:
        service = DetailService(LocalNetworks([repository]), pipelines)
        one = prepared(pipelines, steps=1)
        gone = asyncio.ensure_future(service.sample(one.plan, one.crops, one.masks))
        stays = asyncio.ensure_future(service.sample(one.plan, one.crops, one.masks))
        await asyncio.sleep(0)
        gone.cancel()
        serving = asyncio.create_task(service.engine.serve())
        done = await stays
        serving.cancel()
        assert [seg.status for seg in done.outcome.segs] == ["enhanced"]

    asyncio.run(main())


def test_the_same_crop_is_encoded_once(repository: Path, pipelines: dict[str, Pipeline]) -> None:
    networks = Counted(repository)
    same = Segs.from_boxes([(16, 16, 48, 48)] * 3, size=(96, 96))
    one = prepared(pipelines, same, steps=1, batch_size=2)
    serve(DetailService(networks, pipelines), [one])
    encoded = sum(rows for network, rows in networks.asked if "vae_encoder" in network)
    assert encoded == 1
