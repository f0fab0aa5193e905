"""What the stages prepare and composite have in common as Triton models.

``execute`` returns at once; threads do the work and send the responses.
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from request_plan.refusals import CancelledByClientError, DeadlineExceededError
from runners.cores import PICTURE_NICENESS, lower_priority
from sampling.statistics import Observations
from segs_client.contract import ContractError
from triton_models import stub
from triton_models.internal_token import check_internal
from triton_models.log_format import about
from triton_models.metrics import Source, start_publishing
from triton_models.request_cost import LARGE_BYTES
from triton_models.request_registry import RequestRegistry
from triton_models.stage_calls import TOKEN
from triton_models.state import Heartbeat
from triton_models.stub_logging import configure_logging
from triton_models.tracing import Span, Tracing

_SMALL_THREADS = 2


class StageWork(NamedTuple):
    """The rest of a request's work: what returns its output tensors by name, and the bytes of the
    pixels that it is about."""

    run: Callable[[], dict[str, stub.StubTensor]]
    picture_bytes: int


@dataclass(frozen=True)
class _Asked:
    request: Any
    sender: Any
    token: str
    start_ns: int = field(default_factory=time.time_ns)

    @property
    def deadline_s(self) -> float | None:
        """``time.time()`` at which the answer is of no use."""
        timeout_us = self.request.timeout()
        return self.start_ns / 1e9 + timeout_us / 1e6 if timeout_us else None


class StageModel(ABC):
    """Base of their ``TritonPythonModel``."""

    name: ClassVar[str]
    """Of the stage, in metrics and traces."""

    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._tracing = Tracing.of_environment()
        self._registry = RequestRegistry.of_environment()
        # Large pictures have threads of their own, so that small ones do not wait for them; the
        # front ends bound both.
        self._small = ThreadPoolExecutor(_SMALL_THREADS, "small")
        cores = len(os.sched_getaffinity(0))
        self._large = ThreadPoolExecutor(cores, "large", lower_priority, (PICTURE_NICENESS,))
        self.seconds = Observations()
        start_publishing({"segs_stage_seconds": self.seconds, **self.sources()})
        Heartbeat(args["model_instance_name"]).start_thread()

    def sources(self) -> dict[str, Source]:
        """Of further metrics."""
        return {}

    @abstractmethod
    def begin(self, request: Any, deadline_s: float | None) -> StageWork:
        """The quick part of the work: reads a request, and refuses it if it is wrong.

        Raises:
            ContractError: what is wrong.
        """

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                check_internal(request.parameters())
            except ContractError as error:
                # Its token is not looked at: it would name a file.
                self._small.submit(self._refuse, _Asked(request, sender, ""), error)
                continue
            token = stub.parameter(request, TOKEN) or ""
            if token:
                self._registry.enter(token)
            self._small.submit(self._begin, _Asked(request, sender, token))

    def finalize(self) -> None:
        self._tracing.close()

    def _begin(self, asked: _Asked) -> None:
        try:
            self._check(asked)
            work = self.begin(asked.request, asked.deadline_s)
        except Exception as error:
            self._refuse(asked, error)
            return
        threads = self._large if work.picture_bytes > LARGE_BYTES else self._small
        threads.submit(self._finish, asked, work)

    def _refuse(self, asked: _Asked, error: Exception) -> None:
        with self._span(asked) as span:
            span.fail(error)
            stub.send_last(asked.sender, stub.refusal(error, asked.request.request_id()))

    def _finish(self, asked: _Asked, work: StageWork) -> None:
        with self._span(asked) as span:
            try:
                self._check(asked)
                response = stub.answer(**work.run())
            except Exception as error:
                span.fail(error)
                response = stub.refusal(error, asked.request.request_id())
            stub.send_last(asked.sender, response)

    def _check(self, asked: _Asked) -> None:
        """
        Raises:
            CancelledByClientError: no caller waits for the answer.
            DeadlineExceededError: the answer would be late.
        """
        if asked.token and self._registry.is_cancelled(asked.token):
            raise CancelledByClientError
        if asked.deadline_s is not None and time.time() >= asked.deadline_s:
            raise DeadlineExceededError

    @contextlib.contextmanager
    def _span(self, asked: _Asked) -> Iterator[Span]:
        with (
            self._tracing.span(self.name, asked.request, start_ns=asked.start_ns) as span,
            about(asked.request.request_id(), span.trace_id),
        ):
            yield span
