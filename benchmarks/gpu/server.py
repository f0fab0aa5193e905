"""Callers of the real server, whose networks are on the GPU."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from functools import partial

from benchmarks.clients import Crowd, closed_loop
from benchmarks.gpu.cases import Case, NotRun, Options, Row, left_of
from benchmarks.gpu.engine import ROLES, rounds_within, split, throughput, warm_ups
from benchmarks.gpu.pipeline import NAME, UNET, RandomPipeline, random_pipeline
from benchmarks.metrics_page import SETTLED_S, Page, increase, settled, total
from benchmarks.workload import request
from segs_client import SegsError
from serving.errors import InstallationError, ServingError
from serving.installation import find_installation
from serving.server import EmbeddedServer

_START_S = 45.0
"""To start it, on a machine with a GPU."""
_START_LIMIT_S = 150.0
"""Each of its processes imports torch, from a cold disk at first."""
_LEAST_LIMIT_S = 60.0
"""For an answer."""
_TOLD_LINES = 30

log = logging.getLogger(__name__)


def server(options: Options, stack: ExitStack) -> list[Case]:
    """One row per number of callers.

    Raises:
        NotRun: there is no tritonserver.
    """
    try:
        find_installation()
    except InstallationError as error:
        raise NotRun(f"no tritonserver here: {error}") from error
    bench = ServerBench(random_pipeline(options), stack)
    least_s = 0.0 if options.is_rehearsal else _START_S
    return [
        Case({"callers": callers}, partial(bench.measure, callers), 0.0 if nth else least_s)
        for nth, callers in enumerate(options.callers)
    ]


class ServerBench:
    """A server of the pipeline, which starts at the first measurement.

    Args:
        stack: ends the server.
    """

    def __init__(self, made: RandomPipeline, stack: ExitStack) -> None:
        self._made = made
        self._stack = stack
        self._server: EmbeddedServer | None = None
        self._failure: str | None = None
        self._sent = 0

    def measure(self, callers: int, seconds: float) -> Row:
        """A closed loop of so many callers, after rounds that are not counted.

        Raises:
            NotRun: the server does not start.
            SegsError: a request failed.
        """
        begun_s = time.monotonic()
        limit_s = max(seconds, _LEAST_LIMIT_S)
        server = self._started()
        until_s = time.monotonic() + left_of(seconds, begun_s)
        try:
            warm = self._crowd(server, callers, warm_ups(callers), limit_s)
            before = settled(server.address("metrics"))
            left_s = until_s - time.monotonic() - SETTLED_S
            rounds = rounds_within(left_s, warm.wall_s / warm_ups(callers))
            crowd = self._crowd(server, callers, rounds, limit_s)
            grown = increase(before, settled(server.address("metrics")))
        except (SegsError, OSError):
            log.error("the server's last lines:\n%s", server.tail(_TOLD_LINES))
            raise
        return self._row(callers, crowd, grown)

    def _started(self) -> EmbeddedServer:
        if self._failure is not None:
            raise NotRun(self._failure)
        if self._server is None:
            server = EmbeddedServer(
                [self._made.repository],
                metrics_port=0,
                verify=False,
                start_timeout_s=_START_LIMIT_S,
            )
            self._made.free()
            try:
                self._server = self._stack.enter_context(server)
            except ServingError as error:
                log.error("%s", error)
                self._failure = f"the server does not start: {error}"
                raise NotRun(self._failure) from error
        return self._server

    def _crowd(self, server: EmbeddedServer, callers: int, rounds: int, limit_s: float) -> Crowd:
        """Requests that were not sent before, each answered within a limit."""
        count = callers * rounds
        requests = [request(self._made.kind, self._sent + index) for index in range(count)]
        self._sent += count
        rows = [requests[nth::callers] for nth in range(callers)]
        return closed_loop(server.grpc_url, NAME, rows, timeout_s=limit_s)

    def _row(self, callers: int, crowd: Crowd, grown: Page) -> Row:
        rows = total(grown, "segs_batch_rows_total", network=UNET)
        batches = total(grown, "segs_step_seconds_count", network=UNET)
        row = {
            **throughput(self._made, len(crowd.served), crowd.wall_s, rows, batches),
            "p50, s": round(crowd.percentile_s(50), 3),
            "p95, s": round(crowd.percentile_s(95), 3),
        }
        if callers > 1:  # their times overlap
            return row
        spent = {
            role: total(grown, "segs_step_seconds_sum", network=f"{NAME}_{role}") for role in ROLES
        }
        return {**row, **split(spent, sum(answer.seconds for answer in crowd.served))}
