"""The dashboard on a real run: two servers behind the proxy, under load, and a real Prometheus.

    python -m benchmarks.dashboard [--seconds SECONDS] [--picture FILE]

Prometheus has the configuration and the rules of ``deploy/monitoring``, all as deployed but for the
addresses. Its answers to what the panels ask are drawn as a PNG. Returns 1 if a panel that needs no
GPU stays empty.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from benchmarks.chart import Chart, draw
from benchmarks.cluster.load import REQUESTS, Ask, open_client
from benchmarks.cluster.proxy import Proxy
from benchmarks.cluster.servers import Member, build_engines
from benchmarks.machine import describe
from segs_client import Client, SegsError, StepEvent
from serving.options import REPOSITORY_ROOT
from serving.ports import claim_port

MONITORING = REPOSITORY_ROOT / "deploy" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "segs-detailer.json"
NEEDS_GPU = ("GPU",)
"""Panels that stay empty without one."""
_CLIENTS = 4
_SCRAPE_S = 2
_IDLE_S = 15.0
"""Before the load: only canaries are sent."""
_HOST = "127.0.0.1"
_START_S = 30.0


@dataclass(frozen=True)
class Panel:
    """A panel's title, with its unit, and its lines' (expression, legend)."""

    title: str
    targets: tuple[tuple[str, str], ...]


def panels() -> list[Panel]:
    """Those of the dashboard, in its order."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [
        Panel(
            f"{each['title']} ({each['fieldConfig']['defaults']['unit']})",
            tuple((target["expr"], target["legendFormat"]) for target in each["targets"]),
        )
        for each in found
    ]


class Prometheus:
    """The real one; a context manager.

    Args:
        targets: of each scrape job, ``host:port``.
        folder: for its configuration and its data.
    """

    def __init__(self, targets: Mapping[str, Sequence[str]], folder: Path) -> None:
        config = YAML(typ="safe").load(MONITORING / "prometheus.yml")
        config["global"].update(
            scrape_interval=f"{_SCRAPE_S}s", scrape_timeout="2s", evaluation_interval="2s"
        )
        for job in config["scrape_configs"]:
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        self._config = folder / "prometheus.yml"
        self._config.write_text(json.dumps(config))
        shutil.copy(MONITORING / "alarms.yml", folder)
        self._folder = folder
        self._address = f"{_HOST}:{claim_port(_HOST, 0, '--port')}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        command = ["prometheus", f"--config.file={self._config}"]
        command += [f"--storage.tsdb.path={self._folder / 'data'}"]
        command += [f"--web.listen-address={self._address}", "--log.level=error"]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError("Prometheus does not start")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_START_S)

    def over_time(self, expression: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The series of an expression, each with ``metric`` and ``values``."""
        asked = {"query": expression, "start": start_s, "end": end_s, "step": _SCRAPE_S}
        url = f"http://{self._address}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as page:
            answer: list[dict[str, Any]] = json.load(page)["data"]["result"]
        return answer

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=1) as page:
                return bool(page.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def load(url: str) -> Iterator[None]:
    """Clients of all kinds while inside: those who wait, follow, leave, cancel, and err."""
    over = threading.Event()
    picture = np.zeros((128, 128, 3), np.uint8)

    def wait(number: int) -> None:
        draws = np.random.default_rng(number)
        with open_client([url]) as client:
            while not over.is_set():
                Ask(int(draws.integers(REQUESTS))).send(client)

    def err_and_leave() -> None:
        with open_client([url]) as client:
            while not over.wait(1.0):
                with contextlib.suppress(SegsError):
                    client.detail(picture, [(0, 0, 500, 500)])
                with contextlib.suppress(SegsError):
                    client.detail(picture, [(40, 40, 80, 80)], steps=5000, timeout_s=1.5)
                _leave(client)

    def _leave(client: Client) -> None:
        stream = client.stream(picture, [(40, 40, 80, 80)], steps=2000, guide_size=64, max_size=64)
        for update in stream:
            if isinstance(update.event, StepEvent) and update.event.step > 10:
                break
        stream.close()

    with ThreadPoolExecutor(_CLIENTS + 1) as pool:
        futures = [pool.submit(wait, number) for number in range(_CLIENTS)]
        futures.append(pool.submit(err_and_leave))
        try:
            yield
        finally:
            over.set()
            for future in futures:
                future.result()


def measure(seconds: float) -> list[Chart]:
    """Each panel's lines over the run."""
    engine, _ = build_engines()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="segs-dashboard-")))
        members = [Member(folder / f"server-{index}", engine) for index in range(2)]
        for member in members:
            stack.callback(member.drain)
        with ThreadPoolExecutor(len(members)) as pool:
            list(pool.map(Member.start, members))
        proxy = stack.enter_context(Proxy([each.backend for each in members], folder))
        targets = {
            "segs-servers": [f"{_HOST}:{each.metrics_port}" for each in members],
            "segs-health": [f"{_HOST}:{each.server.ports['health']}" for each in members],
            "segs-proxy": [proxy.monitoring_address],
        }
        prometheus = stack.enter_context(Prometheus(targets, folder))
        names = {
            at: f"server-{number}"
            for job in list(targets)[:2]
            for number, at in enumerate(targets[job])
        }
        start_s = time.time()
        time.sleep(_IDLE_S)
        with load(proxy.url):
            time.sleep(seconds)
        end_s = time.time()
        return [_chart(prometheus, panel, start_s, end_s, names) for panel in panels()]


def _chart(
    prometheus: Prometheus, panel: Panel, start_s: float, end_s: float, names: Mapping[str, str]
) -> Chart:
    lines = {}
    for expression, legend in panel.targets:
        for series in prometheus.over_time(expression, start_s, end_s):
            labels = series["metric"]
            labels["instance"] = names.get(labels.get("instance", ""), "proxy")
            name = legend
            for label, value in labels.items():
                name = name.replace("{{" + label + "}}", value)
            points = [(at - start_s, float(value)) for at, value in series["values"]]
            lines[name] = [point for point in points if np.isfinite(point[1])]
    return Chart(panel.title, {name: line for name, line in lines.items() if line})


def _draw(path: Path, charts: Sequence[Chart]) -> None:
    """In two columns, as the dashboard has them."""
    with tempfile.TemporaryDirectory() as folder:
        columns = []
        for number in range(2):
            part = Path(folder) / f"{number}.png"
            draw(part, charts[number::2], "s")
            columns.append(Image.open(part).copy())
    whole = Image.new("RGB", (sum(each.width for each in columns), columns[0].height), "white")
    for number, column in enumerate(columns):
        whole.paste(column, (number * columns[0].width, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.quantize(64).save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it; returns 1 if a panel stays empty."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="of load")
    parser.add_argument("--picture", type=Path, default=Path("build/dashboard.png"))
    given = parser.parse_args(argv)
    charts = measure(given.seconds)
    _draw(given.picture, charts)
    out = [describe(), "", "| panel | lines | largest value |", "| --- | --- | --- |"]
    for chart in charts:
        values = [y for line in chart.lines.values() for _, y in line]
        out.append(f"| {chart.title} | {len(chart.lines)} | {max(values, default=0):.3g} |")
    sys.stdout.write("\n".join(out) + "\n")
    empty = [each.title for each in charts if not each.lines]
    return 1 if any(not title.startswith(NEEDS_GPU) for title in empty) else 0


if __name__ == "__main__":
    sys.exit(main())
