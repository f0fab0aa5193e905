"""What a server shows of its work: metrics, Triton's statistics, the statuses of its models."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import NamedTuple

from serving.errors import ModelsDownError
from serving.server import EmbeddedServer
from tests.waiting import wait_until
from triton_models.state import read_front_ends

LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
"""Of the page: name, labels, value."""

Page = dict[tuple[str, str], float]
"""By name and labels."""


class Executions(NamedTuple):
    """Of a network since its start, by Triton's count."""

    rows: int
    batches: int


def executions(server: EmbeddedServer, network: str = "sd15_unet") -> Executions:
    """What a network has run."""
    with server.connection.open() as client:
        headers = server.credentials.admin_headers()
        (model,) = client.get_inference_statistics(network, headers=headers).model_stats
    return Executions(model.inference_count, model.execution_count)


def page_text(server: EmbeddedServer) -> str:
    """The page of metrics."""
    with urllib.request.urlopen(f"http://{server.address('metrics')}/metrics", timeout=60) as page:
        text: str = page.read().decode()
    return text


def scrape(server: EmbeddedServer) -> Page:
    """The numbers on the page of metrics."""
    found = LINE.findall(page_text(server))
    return {(name, labels): float(value) for name, labels, value in found}


def growth(before: Page, now: Page, name: str, labels: str = "") -> float:
    """What has come to a number between two looks."""
    return now.get((name, labels), 0.0) - before.get((name, labels), 0.0)


def settled(server: EmbeddedServer) -> Page:
    """The page once nothing of ours moves any more."""
    last = scrape(server)
    while True:
        time.sleep(2.5)
        now = scrape(server)
        if all(now[key] == last.get(key) for key in now if key[0].startswith("segs_")):
            return now
        last = now


def batches_shared(server: EmbeddedServer, requests: int) -> float:
    """The UNet's batches with calls of so many requests or more; published every second."""
    name, labels = "segs_batch_requests", 'network="sd15_unet"'
    page = scrape(server)
    fewer = page.get((f"{name}_bucket", f'{labels},le="{requests - 1}"'), 0.0)
    return page.get((f"{name}_count", labels), 0.0) - fewer


def left(server: EmbeddedServer) -> tuple[int, ...]:
    """Of the engine: requests, SEGs, programs; of the front ends: requests, streams followed."""
    engine = server.engine_state()
    assert engine is not None
    front_ends = read_front_ends(server.state)
    assert {each.model for each in front_ends} == {"segs_detailer", "segs_detailer_stream"}
    pending = sum(each.pending for each in front_ends)
    followed = sum(each.followed for each in front_ends)
    return engine.requests, engine.segs, engine.programs, pending, followed


def wait_idle(server: EmbeddedServer) -> None:
    """Until engine and front ends report that they hold nothing, which they do every second."""
    wait_until(lambda: not any(left(server)))


def wait_for_the_dead(server: EmbeddedServer) -> ModelsDownError:
    """What the server misses, once it misses a model's process."""

    def looks() -> ModelsDownError | None:
        try:
            server.check()
        except ModelsDownError as down:
            return down
        return None

    return wait_until(looks)
