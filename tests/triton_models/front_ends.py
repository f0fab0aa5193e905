"""A front end in virtual time, with stand-ins for Triton, the stages and their processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from request_plan.limits import Limits
from segs_client.contract import ErrorDetail
from tests import virtual_time
from tests.triton_models import pb_utils
from tests.triton_models.pb_utils import InferenceRequest, InferenceResponse, Request, TritonError
from triton_models import front_end, stage_calls
from triton_models.front_end import ClientRequest, FrontEnd
from triton_models.front_end_stats import FrontEndStats
from triton_models.request_cost import RequestCost
from triton_models.request_registry import RequestRegistry
from triton_models.stage_calls import TOKEN

MISSING = "Failed to process the request(s), message: Stub process 'sample_0_0' is not healthy."
"""Triton's answer where a stage's process has ended."""


MOST_S = 100.0
"""Of virtual time, until a call is made."""


class Poller:
    """In place of the thread that asks Triton: a test chooses whose client has gone."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], object]] = {}

    def add(self, request: Any, on_cancelled: Callable[[], object]) -> None:
        self.watched[id(request)] = on_cancelled

    def remove(self, request: Any) -> None:
        self.watched.pop(id(request), None)

    def gone(self, request: Request) -> None:
        """The client of this request has gone."""
        self.watched.pop(id(request))()


class StageCall(InferenceRequest):
    """A call of the stages, as the front end made it."""

    @property
    def token(self) -> str:
        return str(self.fields["parameters"][TOKEN])

    def succeed(self, *tensors: pb_utils.Tensor) -> None:
        self.answer.set_result(InferenceResponse(tensors))

    def fail(self, message: str) -> None:
        self.answer.set_result(InferenceResponse(error=TritonError(message)))


@dataclass
class Bench:
    """The front end, what it sent to the stages, and the state of their processes."""

    registry: RequestRegistry
    limits: Limits = field(default_factory=Limits)
    calls: list[StageCall] = field(default_factory=list)
    costs: dict[str, RequestCost] = field(default_factory=dict)
    """Of requests by id; others are of one unit of work."""
    are_alive: bool = True
    """Whether each stage has its processes."""
    dead: set[int] = field(default_factory=set)

    def open(self) -> None:
        """Makes the front end, in the running loop."""
        self.front_end = FrontEnd({}, self.limits, FrontEndStats("segs_detailer"))
        self.in_flight = self.front_end.in_flight
        self.poller: Any = self.front_end._disconnects
        self.watching = asyncio.ensure_future(self.front_end.stages.watch())

    def send(self, request: Request) -> asyncio.Task[ErrorDetail | None]:
        """A request arrives; the task has the error that it ends with."""
        return asyncio.ensure_future(self._answer(request))

    async def _answer(self, request: Request) -> ErrorDetail | None:
        await self.front_end.answer(request, request.sender)
        (response,), (is_final,) = request.sender.responses, request.sender.is_final
        assert is_final
        error = response.error()
        return None if error is None else ErrorDetail.from_status_message(error.message())

    async def call(self, number: int) -> StageCall:
        """The call with this number, once it is made."""
        until_s = virtual_time.now_s() + MOST_S
        while len(self.calls) <= number:
            assert virtual_time.now_s() < until_s, "the stages are not called"
            await asyncio.sleep(0.01)
        return self.calls[number]

    def die_with(self, call: StageCall) -> None:
        """The process that the call is inside dies."""
        self.registry.enter(call.token)
        self.dead.add(os.getpid())


def make_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench in this process's folder of states."""
    made = Bench(RequestRegistry.of_environment())

    def call(**fields: Any) -> StageCall:
        made.calls.append(StageCall(**fields))
        return made.calls[-1]

    async def check(self: FrontEnd, asked: ClientRequest) -> RequestCost:
        return made.costs.get(asked.request_id, RequestCost(1.0))

    virtual_time.use_virtual_time(monkeypatch, front_end.__name__, stage_calls.__name__)
    monkeypatch.setattr(pb_utils, "InferenceRequest", call)
    monkeypatch.setattr(front_end, "DisconnectPoller", Poller)
    monkeypatch.setattr(FrontEnd, "_check", check)
    monkeypatch.setattr(stage_calls, "all_alive", lambda _: made.are_alive)
    monkeypatch.setattr(stage_calls, "is_alive", lambda pid: pid not in made.dead)
    return made


def run(bench: Bench, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The test, with the front end, in an event loop with virtual time."""

    async def main() -> None:
        bench.open()
        await test()
        bench.watching.cancel()

    virtual_time.run(main)
