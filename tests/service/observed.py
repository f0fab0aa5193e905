"""What a server shows of its work: metrics, Triton's statistics, the statuses of its models."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks import metrics_page
from benchmarks.metrics_page import Page
from serving.errors import ModelsDownError
from serving.server import EmbeddedServer
from tests.waiting import wait_until
from triton_models.state import read_front_ends


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
    return metrics_page.page_text(server.address("metrics"))


def scrape(server: EmbeddedServer) -> Page:
    """The numbers on the page of metrics."""
    return metrics_page.scrape(server.address("metrics"))


def settled(server: EmbeddedServer) -> Page:
    """The page once none of our numbers changes any more."""
    return metrics_page.settled(server.address("metrics"))


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
