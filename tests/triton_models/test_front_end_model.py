"""What a front end's process reports, publishes and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.triton_models.front_ends import Bench, run
from tests.triton_models.pb_utils import Request
from triton_models import state
from triton_models.front_end_model import FrontEndModel
from triton_models.in_flight import LOST_LIMIT
from triton_models.metrics import METRICS


class Model(FrontEndModel):
    """A front end on a bench, without a thread of its own."""

    def __init__(self, bench: Bench) -> None:
        self._name = "segs_detailer"
        self.front_end = bench.front_end

    async def answer(self, request: Any, sender: Any) -> None:
        await self.front_end.answer(request, sender)


def test_each_second_it_writes_its_status_and_reads_orders(
    bench: Bench, state_folder: Path
) -> None:
    async def test() -> None:
        model = Model(bench)
        tasks = [bench.send(Request()) for _ in range(3)]
        (await bench.call(2)).succeed()
        await tasks[2]
        bench.die_with(bench.calls[0])
        await bench.call(3)
        model._report()
        (written,) = state.read_front_ends(state_folder)
        assert written == state.FrontEndStatus(
            model="segs_detailer", pending=2, arrived=3, lost=1, lost_limit=LOST_LIMIT
        )
        state.order_drain(state_folder, "end")
        model._report()
        for task in tasks[:2]:
            detail = await task
            assert detail is not None
            assert detail.code == "UNAVAILABLE"
        model._report()
        (written,) = state.read_front_ends(state_folder)
        assert written.pending == 0

    run(bench, test)


def test_what_it_publishes_are_known_metrics(bench: Bench) -> None:
    async def test() -> None:
        sources = Model(bench).sources()
        assert sources.keys() <= METRICS.keys()
        bench.send(Request())
        await bench.call(0)
        values = {name: source() for name, source in sources.items() if callable(source)}
        for name, series in values.items():
            assert {len(labels) for labels in series} == {len(METRICS[name].labels)}
        assert values["segs_requests_in_flight"] == {("segs_detailer",): 1}
        assert values["segs_requests_waiting"] == {("segs_detailer",): 0}

    run(bench, test)
