"""Three real servers behind the real proxy, or balanced by the clients: what do 8 clients see when
one is killed, one drained, and all get a new engine?

    python -m benchmarks.cluster [--through proxy|client] [--calm SECONDS] [--report FILE]

Bars: no request fails; while all servers are up their work (rows of the UNet, by Triton's own
count) differs by at most 15 % from the mean; after the update every picture is the new engine's.
Beside the report goes a chart (PNG). Returns 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.cluster.load import Load, engine_of, pictures
from benchmarks.cluster.proxy import Proxy
from benchmarks.cluster.report import Phase, Run
from benchmarks.cluster.servers import Member, ServersWatch, build_engines
from benchmarks.machine import describe

_SETTLE_S = 3.0
"""After a server is ready until it is counted as having its share."""


class Story:
    """What is done to the servers under load, one thing after the other."""

    def __init__(self, members: Sequence[Member], engine: Path, calm_s: float) -> None:
        self.phases: list[Phase] = []
        self._members = members
        self._engine = engine
        self._calm_s = calm_s

    def run(self) -> None:
        """All of it; the load runs meanwhile."""
        killed, drained = self._members[0], self._members[1]
        self._calm()
        self._phase(f"{killed.name} killed", lambda: self._away(killed.kill))
        self._phase(f"{killed.name} started", lambda: self._back(killed))
        self._calm()
        self._phase(f"{drained.name} drained", lambda: self._away(drained.drain))
        self._phase(f"{drained.name} started", lambda: self._back(drained))
        self._calm()
        self._phase("update", self._update)
        self._calm()

    def _calm(self) -> None:
        self._phase("all up", lambda: time.sleep(self._calm_s), balanced=True)

    def _away(self, leave: Callable[[], None]) -> None:
        leave()
        time.sleep(self._calm_s / 4)

    def _back(self, member: Member) -> None:
        member.start()
        time.sleep(_SETTLE_S)

    def _update(self) -> None:
        for member in self._members:
            member.update(self._engine)
            member.drain()
            self._back(member)

    def _phase(self, name: str, do: Callable[[], None], *, balanced: bool = False) -> None:
        start_s = time.monotonic()
        do()
        self.phases.append(Phase(name, start_s, time.monotonic(), balanced))


def measure(through: str, servers: int, clients: int, calm_s: float) -> Run:
    """The whole run."""
    old, new = build_engines()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segs-cluster-")))
        members = [Member(folder / f"server-{index}", old) for index in range(servers)]
        for member in members:
            stack.callback(member.drain)
        *others, last = members
        last.update(new)
        _start(members)
        right = pictures(last.server.url)
        last.update(old)
        last.drain()
        last.start()
        known = [pictures(others[0].server.url), right]
        if any(engine_of(one, [other]) is not None for one, other in zip(*known, strict=True)):
            raise RuntimeError("the two engines cannot be told apart by their pictures")
        urls = [member.server.url for member in members]
        proxy = None
        if through == "proxy":
            proxy = stack.enter_context(Proxy([each.backend for each in members], folder))
            urls = [proxy.url]
        story = Story(members, new, calm_s)
        with ServersWatch(members) as watch, Load(urls, clients, known) as load:
            time.sleep(_SETTLE_S)
            story.run()
        counters = proxy.counters() if proxy else {}
        retries = {name: value for name, value in counters.items() if "retry" in name and value}
        retries["by the clients themselves"] = len(load.retries)
        return Run(story.phases, load.answers, watch.sights, retries)


def _start(members: Sequence[Member]) -> None:
    """All at once."""
    with ThreadPoolExecutor(len(members)) as pool:
        list(pool.map(Member.start, members))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--through", choices=("proxy", "client"), default="proxy")
    parser.add_argument("--servers", type=int, default=3, help="at least 2")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--calm", type=float, default=30.0, help="seconds between what is done")
    parser.add_argument("--report", type=Path, default=Path("build/cluster/report.md"))
    given = parser.parse_args(argv)
    report: Path = given.report
    report.parent.mkdir(parents=True, exist_ok=True)
    run = measure(given.through, given.servers, given.clients, given.calm)
    run.draw(report.with_suffix(".png"))
    head = f"{describe()}; {given.clients} clients, {given.servers} servers, by the {given.through}"
    report.write_text(f"{head}\n\n{run.text()}")
    sys.stdout.write(report.read_text())
    return 1 if run.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
