"""The front end of streams: requests whose events are sent while they run.

It uses :mod:`triton_models.front_end` and subscribes to the step engine's events.
Importable in a stub only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from request_plan.refusals import CancelledByClientError
from segs_client.contract import ContractError, ErrorDetail, invalid
from segs_client.events import CANCEL_PARAMETER
from triton_models import stub
from triton_models.event_channel import EventSubscriber
from triton_models.event_writer import EventWriter
from triton_models.front_end import ClientRequest, FrontEnd
from triton_models.in_flight import InFlight
from triton_models.request_cost import RequestCost
from triton_models.stage_calls import FOLLOWED

_REQUIRED = ("request", "image")


@dataclass(eq=False, kw_only=True)
class _StreamRequest(ClientRequest):
    writer: EventWriter
    subscriber: EventSubscriber
    key: str | None = None
    """Name of its API key."""
    token: str | None = None

    def parameters(self, token: str) -> Mapping[str, str]:
        self.unsubscribe()
        self.token = token
        self.writer.restart()
        self.subscriber.subscribe(token, self.writer.take)
        return {FOLLOWED: "1", **super().parameters(token)}

    def report_waiting(self, in_flight: InFlight, cost: RequestCost) -> None:
        self.writer.queued(*in_flight.standing(cost, self.arrived_s))

    def unsubscribe(self) -> None:
        """Ends the subscription to the engine's events."""
        if self.token is not None:
            self.subscriber.unsubscribe(self.token)


class StreamFrontEnd:
    """Answers the requests of one event loop with events.

    Args:
        front_end: runs the requests.
        subscriber: to the step engine's events.
    """

    def __init__(self, front_end: FrontEnd, subscriber: EventSubscriber) -> None:
        self._front_end = front_end
        self._subscriber = subscriber
        self._live: dict[str, list[_StreamRequest]] = {}

    async def answer(self, request: Any, sender: Any) -> None:
        """Sends all responses to a request; never raises."""
        front_end = self._front_end
        request_id = stub.id_of(request)
        writer = EventWriter(front_end, request, sender, request_id)
        incoming = _StreamRequest(request, request_id, writer=writer, subscriber=self._subscriber)
        cancelled_id = stub.parameter(request, CANCEL_PARAMETER)
        with front_end.attending(incoming, is_order=cancelled_id is not None):
            try:
                incoming.key = front_end.authenticate(incoming)
                if cancelled_id is None:
                    await writer.end("result", await self._detail(incoming))
                else:
                    self._cancel(cancelled_id, incoming.key)
                    await writer.end("cancelled", request_id=cancelled_id)
            except Exception as error:
                detail = front_end.fail(incoming, error)
                await writer.end("error", error=detail.model_dump())
            finally:
                incoming.unsubscribe()

    async def _detail(self, incoming: _StreamRequest) -> list[Any]:
        """The stages' output tensors."""
        _check_inputs(incoming.request)
        with self._listed(incoming):
            return await self._front_end.run(incoming)

    @contextlib.contextmanager
    def _listed(self, incoming: _StreamRequest) -> Iterator[None]:
        """A context in which the request can be cancelled by its id."""
        named = self._live.setdefault(incoming.request_id, [])
        named.append(incoming)
        try:
            yield
        finally:
            named.remove(incoming)
            if not named:
                del self._live[incoming.request_id]

    def _cancel(self, request_id: str, key: str | None) -> None:
        """Ends the requests with this id and the same API key.

        Raises:
            ContractError: NOT_FOUND.
        """
        found = [each for each in self._live.get(request_id, ()) if each.key == key]
        if not found:
            message = f"no request {request_id[:80]!r} is under way"
            raise ContractError(ErrorDetail(code="NOT_FOUND", message=message))
        for incoming in found:
            incoming.cancelled = True
            incoming.interrupt(CancelledByClientError("the request was cancelled"))


def _check_inputs(request: Any) -> None:
    """Checks the inputs that all but cancelling calls need."""
    given = {tensor.name() for tensor in request.inputs()}
    for name in _REQUIRED:
        if name not in given:
            raise invalid(name, "the input is missing", allowed=f"a tensor {name}")
