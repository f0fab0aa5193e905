"""The door of streams: requests whose events are told while they are under way.

The same passage as :mod:`serving.door`'s, with somebody who listens to the step engine's messages
and sends them on. Importable in a stub only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preprocessing.plan import CancelledByClientError
from segs_client.contract import ContractError, ErrorDetail, invalid
from segs_client.events import CANCEL_PARAMETER
from serving.channel import EventReceiver
from serving.door import FOLLOWED, Door, Visitor, id_of, parameter
from serving.teller import Teller

_REQUIRED = ("request", "image")


class StreamDoor:
    """Answers the requests of one event loop with events.

    Args:
        door: whose way through the stages they go.
        receiver: of the step engine's messages.
    """

    def __init__(self, door: Door, receiver: EventReceiver) -> None:
        self._door = door
        self._receiver = receiver
        self._live: dict[str, list[_Stream]] = {}

    async def answer(self, request: Any, sender: Any) -> None:
        """All responses to a request; never raises."""
        teller = Teller(sender, id_of(request))
        stream = _Stream(request, teller.request_id, teller, self._receiver)
        named = parameter(request, CANCEL_PARAMETER)
        with self._door.attending(stream, is_order=named is not None):
            try:
                stream.key = self._door.ask_who(stream)
                if named is None:
                    await teller.end("result", await self._detail(stream))
                else:
                    self._cancel(named, stream.key)
                    await teller.end("cancelled", request_id=named)
            except Exception as error:
                await teller.end("error", error=stream.fail(error).model_dump())
            finally:
                stream.leave()

    async def _detail(self, stream: _Stream) -> list[Any]:
        """The stages' output tensors."""
        _check_inputs(stream.request)
        with self._listed(stream):
            return await self._door.let_through(stream)

    @contextlib.contextmanager
    def _listed(self, stream: _Stream) -> Iterator[None]:
        """Inside, the request can be cancelled by its id."""
        named = self._live.setdefault(stream.request_id, [])
        named.append(stream)
        try:
            yield
        finally:
            named.remove(stream)
            if not named:
                del self._live[stream.request_id]

    def _cancel(self, request_id: str, key: str | None) -> None:
        """Ends the requests of that id, and of the same API key.

        Raises:
            ContractError: NOT_FOUND.
        """
        found = [each for each in self._live.get(request_id, ()) if each.key == key]
        if not found:
            message = f"no request {request_id[:80]!r} is under way"
            raise ContractError(ErrorDetail(code="NOT_FOUND", message=message))
        for stream in found:
            stream.cancelled = True


@dataclass(eq=False)
class _Stream(Visitor):
    """One request under way."""

    teller: Teller
    receiver: EventReceiver
    key: str | None = None
    """Whose it is."""
    token: str | None = None

    def check(self) -> None:
        super().check()
        if self.cancelled:
            raise CancelledByClientError("the request was cancelled")

    def begin(self, token: str) -> Mapping[str, str]:
        self.leave()
        self.token = token
        self.teller.begin()
        self.receiver.listen(token, self.teller.take)
        return {FOLLOWED: "1"}

    def leave(self) -> None:
        """Nothing more is heard of it."""
        if self.token is not None:
            self.receiver.leave(self.token)


def _check_inputs(request: Any) -> None:
    """Those that only a call that cancels can do without."""
    given = {tensor.name() for tensor in request.inputs()}
    for name in _REQUIRED:
        if name not in given:
            raise invalid(name, "the input is missing", allowed=f"a tensor {name}")
