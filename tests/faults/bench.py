"""What rows work with: servers, known pictures, and the look at a server after each fault."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.supervised import PromiseBroken, Setup, Supervised, link_pipeline
from segs_client.arrays import ByteArray
from serving.errors import CanaryError
from tests.conftest import GOLDEN
from tests.faults.faulty import FaultyPipeline
from tests.faults.row import allowed_s, require
from tests.faults.traffic import Ask, Traffic
from tests.golden.cases import read
from tests.golden.runners import ServerRunner
from tests.golden.verdict import judge

GOLDEN_CASE = "feature-one_step"
_OPTIONS = ("--text-cache", "0")
"""So that texts are encoded whenever they come."""
_GONE_S = 5.0
"""By then what a server has left is cleaned up."""


class Bench:
    """Servers for rows; a context manager that leaves none.

    Args:
        repository: folder with the compiled pipeline ``sd15`` and its ControlNet.
        folder: for everything that servers write; empty.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self.folder = folder
        self.repository = link_pipeline(repository, folder / "pipelines")
        self._case = read(GOLDEN / f"{GOLDEN_CASE}.npz")
        self._shared: tuple[str, Supervised] | None = None
        self._right: dict[Ask, ByteArray] = {}
        self._faulty: FaultyPipeline | None = None
        self._made = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def new_folder(self) -> Path:
        """An empty one."""
        self._made += 1
        path = self.folder / str(self._made)
        path.mkdir()
        return path

    def shared(self, name: str = "plain", setup: Setup | None = None) -> Supervised:
        """A ready server that lives as long as rows ask for it by the same name and it survives
        their faults."""
        if self._shared is not None and self._shared[0] == name and self._shared[1].alive:
            return self._shared[1]
        self.give_up()
        server = Supervised(setup or Setup(self.repository, _OPTIONS), self.new_folder())
        self._shared = name, server
        server.start()
        return server

    def faulty(self) -> FaultyPipeline:
        """The pipeline whose UNet fails on order."""
        if self._faulty is None:
            self._faulty = FaultyPipeline(self.repository, self.folder / "faulty")
        return self._faulty

    def give_up(self) -> None:
        """Stops the shared server; the next row gets a new one.

        Raises:
            PromiseBroken: it does not stop, or leaves something behind.
        """
        if self._shared is None:
            return
        _, server = self._shared
        self._shared = None
        if server.process is not None:
            status = server.stop()
            require(status == 0, f"the server's exit status is {status}: {server.log_tail()}")
        require_no_leftovers(server)

    def discard(self) -> None:
        """Stops the shared server after a broken promise, however it does."""
        if self._shared is not None:
            self._shared[1].stop()
            self._shared = None

    @contextmanager
    def own(
        self,
        *options: str,
        repository: Path | None = None,
        prefix: Sequence[str] = (),
        **environment: str,
    ) -> Iterator[Supervised]:
        """A server that is not started yet, for this row alone. At the end it is started if it is
        not there, has to be well, and is stopped."""
        setup = Setup(repository or self.repository, options, prefix, environment)
        server = Supervised(setup, self.new_folder())
        try:
            yield server
            self.settle(server)
        finally:
            server.stop()
        require_no_leftovers(server)

    def learn(self, server: Supervised, asks: Sequence[Ask]) -> None:
        """Sends each by itself to a server that is well, so that its right picture is known."""
        for ask in asks:
            if ask not in self._right:
                self._right[ask] = ask.send(server.url)

    def traffic(self, server: Supervised, asks: Sequence[Ask]) -> Traffic:
        """Sends them all at once; no picture is right for one that was not learned."""
        return Traffic(server.url, asks, [self._right.get(ask) for ask in asks])

    def settle(self, server: Supervised | None = None) -> None:
        """After a fault: readiness, the canary, a golden case, and nothing left behind. A server
        that has ended is started again, on the same ports.

        Args:
            server: by default the shared one, if there is one.

        Raises:
            PromiseBroken: one of these is not so.
        """
        if server is None:
            if self._shared is None:
                return
            server = self._shared[1]
        if not server.alive:
            require_no_leftovers(server)
            server.start()
        server.wait_back()
        try:
            server.canary()
        except CanaryError as error:
            raise PromiseBroken(f"canary: {error}") from error
        runner = ServerRunner(server.url)
        try:
            verdict = judge(self._case, runner.run(self._case))
        finally:
            runner.close()
        require(verdict.passed, f"golden case {GOLDEN_CASE}: {verdict}")
        status, state = server.health()
        require(status == 200, f"not ready: {state}")
        require_no_leftovers(server)


def require_no_leftovers(server: Supervised, limit_s: float = _GONE_S) -> None:
    """
    Raises:
        PromiseBroken: files, shared memory or processes are still there that should not be.
    """
    deadline = time.monotonic() + allowed_s(limit_s)
    while left := server.leftovers():
        if time.monotonic() > deadline:
            raise PromiseBroken(f"left behind: {', '.join(sorted(left))}")
        time.sleep(0.1)
