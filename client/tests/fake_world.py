"""Servers with scripted answers, and a clock that goes on while a call waits; what the
clients do for a request is run against them without a network and in no time."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import pytest
from tritonclient.utils import InferenceServerException

from segs_client import Retries, Retry, exchange, servers
from segs_client.contract import ErrorDetail
from segs_client.exchange import ClientCall, ClientResponse, OutgoingRequest, Pause, inference
from segs_client.servers import Servers

DEAD = InferenceServerException("failed to connect to all addresses", "StatusCode.UNAVAILABLE")
LOST = InferenceServerException("Socket closed", "StatusCode.UNAVAILABLE")
BROKEN = InferenceServerException("internal error; incident 12", "StatusCode.INTERNAL")
TOO_LATE = InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")


def refusal(
    retry_after_s: float, message: str = "the server is stopping"
) -> InferenceServerException:
    detail = ErrorDetail(code="UNAVAILABLE", message=message, retry_after_s=retry_after_s)
    return InferenceServerException(detail.to_status_message(), "StatusCode.UNAVAILABLE")


class Clock:
    """Stands for the module ``time``; no two moments are the same."""

    now: ClassVar[Clock]

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        self.now_s += 1e-6
        return self.now_s

    @classmethod
    def instead(cls, monkeypatch: pytest.MonkeyPatch) -> Clock:
        """The clock that the clients' rules go by from now on."""
        clock = cls.now = cls()
        monkeypatch.setattr(exchange, "time", clock)
        monkeypatch.setattr(servers, "time", clock)
        return clock


class World:
    """What servers answer, by their addresses, and what was asked of them. Time passes in pauses
    alone; :class:`Clock` counts it. A server that refuses is ready all the same."""

    def __init__(self, answers: Mapping[str, Any], timeout_s: float = 60.0, **retries: Any) -> None:
        self.answers = dict(answers)
        self.servers = Servers(tuple(answers), shuffle=lambda servers: None)
        self.told: list[Retry] = []
        self.retries = Retries(on_retry=self.told.append, **retries)
        self.asked: list[str] = []
        self.probed: list[str] = []
        self.pauses: list[float] = []
        self.timeouts: list[float] = []
        self.timeout_s = timeout_s

    def start(self, work: float = 1.0) -> Generator[Any, Any, ClientResponse]:
        asked = OutgoingRequest({"headers": {}}, "id", work, self.timeout_s)
        return inference(asked, self.servers, self.retries)

    def run(self, work: float = 1.0) -> ClientResponse:
        program = self.start(work)
        try:
            step = next(program)
            while True:
                try:
                    led_to = self._take(step)
                except Exception as error:
                    step = program.throw(error)
                else:
                    step = program.send(led_to)
        except StopIteration as end:
            answered: ClientResponse = end.value
            return answered

    def _take(self, step: ClientCall | Pause) -> Any:
        if isinstance(step, Pause):
            self.pauses.append(step.seconds)
            Clock.now.now_s += step.seconds
            return None
        url = self.servers.urls[step.server]
        if step.method != "infer":
            self.probed.append(url)
            if "retry_after_s" in str(self.answers[url]):
                return True
        else:
            self.asked.append(url)
            self.timeouts.append(step.arguments["client_timeout"])
        answer = self.answers[url]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
