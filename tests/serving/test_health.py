"""What probes get, over HTTP and gRPC; without a server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from serving.__main__ import main
from serving.errors import ServingError
from serving.health import GrpcHealthServer, Health, HealthServer, check_health


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def url(health: Health) -> Iterator[str]:
    with HealthServer(health, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.port}"


def test_probes_follow_the_state(health: Health, url: str) -> None:
    with pytest.raises(ServingError, match="not ready: starting"):
        check_health(url, 5)
    assert read(f"{url}/health/live")["reason"] == "starting"
    health.ready(["base"])
    check_health(url, 5)
    health.restarted(2, "the unet has died")
    with pytest.raises(ServingError, match="not ready: starting again"):
        check_health(url, 5)
    health.answered(1.0, 0.25)
    check_health(url, 5)
    shown = read(f"{url}/health/ready")
    assert (shown["restarts"], shown["last_failure"]) == (2, "the unet has died")
    assert (shown["pipelines"], shown["canary"]) == (["base"], {"at": 1.0, "seconds": 0.25})
    with pytest.raises(urllib.error.HTTPError, match="404"):
        read(f"{url}/etc/passwd")


@pytest.mark.parametrize(
    ("host", "urls"),
    [
        ("::1", ["http://[::1]:{}"]),
        ("::", ["http://[::1]:{}", "http://127.0.0.1:{}"]),
        ("0.0.0.0", ["http://127.0.0.1:{}"]),
    ],
)
def test_probes_come_by_any_address(health: Health, host: str, urls: list[str]) -> None:
    health.ready([])
    with HealthServer(health, host, 0) as server:
        for each in urls:
            check_health(each.format(server.port), 5)


def test_probes_get_no_lines_of_the_log(health: Health, url: str) -> None:
    health.restarted(1, "tritonserver has ended; its last lines:\n/secret/path.py")
    health.not_ready("gone\nsecret")
    shown = read_any(f"{url}/health/ready")
    assert "secret" not in json.dumps(shown)
    assert (shown["reason"], shown["last_failure"]) == (
        "gone",
        "tritonserver has ended; its last lines:",
    )
    health.restarted(2, "'/secret/a.pem': holds no key (see http://host/page, 3/4)")
    health.not_ready("/secret")
    shown = read_any(f"{url}/health/ready")
    assert shown["last_failure"] == "'…': holds no key (see http://host/page, 3/4)"


def test_the_command_line_asks_too(health: Health, url: str) -> None:
    assert main(["healthcheck", "--url", url]) == 1
    health.ready([])
    assert main(["healthcheck", "--url", url]) == 0
    assert main(["healthcheck", "--url", "http://127.0.0.1:1", "--timeout", "1"]) == 1


def test_another_server_on_the_health_port_is_named(url: str) -> None:
    with pytest.raises(ServingError, match="HTTP 404, not from a health port"):
        check_health(f"{url}/elsewhere", 5)


def test_grpc_probes_follow_the_state(health: Health) -> None:
    with (
        GrpcHealthServer(health, "127.0.0.1", 0) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub: Any = HealthStub(channel)
        seen = [stub.Check(HealthCheckRequest()).status]
        health.ready([])
        seen.append(stub.Check(HealthCheckRequest()).status)
        health.not_ready("gone")
        seen.append(stub.Check(HealthCheckRequest()).status)
    kinds = HealthCheckResponse
    assert seen == [kinds.NOT_SERVING, kinds.SERVING, kinds.NOT_SERVING]


def read_any(url: str) -> dict[str, Any]:
    """Whatever the status is."""
    try:
        return read(url)
    except urllib.error.HTTPError as error:
        return cast(dict[str, Any], json.load(error))


def read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return cast(dict[str, Any], json.load(answer))
