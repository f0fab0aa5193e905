"""The common base of the Triton models prepare and composite.

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
    """The rest of a request's work: a function that returns its output tensors by name, and the
    bytes of its pixels."""

    run: Callable[[], dict[str, stub.StubTensor]]
    picture_bytes: int


@dataclass(frozen=True)
class _StageRequest:
    request: Any
    sender: Any
    token: str
    start_ns: int = field(default_factory=time.time_ns)

    @property
    def deadline_s(self) -> float | None:
        """``time.time()`` of the request's deadline."""
        timeout_us = self.request.timeout()
        return self.start_ns / 1e9 + timeout_us / 1e6 if timeout_us else None


class StageModel(ABC):
    """Base of their ``TritonPythonModel``."""

    name: ClassVar[str]
    """The stage's name in metrics and traces."""

    def initialize(self, args: dict[str, str]) -> None:
        configure_logging()
        self._tracing = Tracing.of_environment()
        self._registry = RequestRegistry.of_environment()
        # Separate threads for large pictures, so that small ones do not wait for them; the front
        # ends bound both.
        self._small = ThreadPoolExecutor(_SMALL_THREADS, "small")
        cores = len(os.sched_getaffinity(0))
        self._large = ThreadPoolExecutor(cores, "large", lower_priority, (PICTURE_NICENESS,))
        self.seconds = Observations()
        start_publishing({"segs_stage_seconds": self.seconds, **self.sources()})
        Heartbeat(args["model_instance_name"]).start_thread()

    def sources(self) -> dict[str, Source]:
        """Sources of further metrics."""
        return {}

    @abstractmethod
    def begin(self, request: Any, deadline_s: float | None) -> StageWork:
        """The quick part of the work: reads and checks a request.

        Raises:
            ContractError: the request is wrong.
        """

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                check_internal(request.parameters())
            except ContractError as error:
                # Its token is not used, since it would be the name of a file.
                self._small.submit(self._refuse, _StageRequest(request, sender, ""), error)
                continue
            token = stub.parameter(request, TOKEN) or ""
            if token:
                self._registry.enter(token)
            self._small.submit(self._begin, _StageRequest(request, sender, token))

    def finalize(self) -> None:
        self._tracing.close()

    def _begin(self, incoming: _StageRequest) -> None:
        try:
            self._check(incoming)
            work = self.begin(incoming.request, incoming.deadline_s)
        except Exception as error:
            self._refuse(incoming, error)
            return
        threads = self._large if work.picture_bytes > LARGE_BYTES else self._small
        threads.submit(self._finish, incoming, work)

    def _refuse(self, incoming: _StageRequest, error: Exception) -> None:
        with self._span(incoming) as span:
            span.fail(error)
            stub.send_last(incoming.sender, stub.refusal(error, incoming.request.request_id()))

    def _finish(self, incoming: _StageRequest, work: StageWork) -> None:
        with self._span(incoming) as span:
            try:
                self._check(incoming)
                response = stub.answer(**work.run())
            except Exception as error:
                span.fail(error)
                response = stub.refusal(error, incoming.request.request_id())
            stub.send_last(incoming.sender, response)

    def _check(self, incoming: _StageRequest) -> None:
        """
        Raises:
            CancelledByClientError: the request is cancelled.
            DeadlineExceededError: its deadline has passed.
        """
        if incoming.token and self._registry.is_cancelled(incoming.token):
            raise CancelledByClientError
        if incoming.deadline_s is not None and time.time() >= incoming.deadline_s:
            raise DeadlineExceededError

    @contextlib.contextmanager
    def _span(self, incoming: _StageRequest) -> Iterator[Span]:
        with (
            self._tracing.span(self.name, incoming.request, start_ns=incoming.start_ns) as span,
            about(incoming.request.request_id(), span.trace_id),
        ):
            yield span
