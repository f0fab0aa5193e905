"""Signs of life, processes that are looked after, and what probes are told; without a server."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from sampling.flight import Flight
from serving import monitor as watch
from serving.__main__ import main
from serving.errors import ModelsDownError, ServingError
from serving.health import GrpcHealthServer, Health, HealthServer, check_health
from serving.monitor import Watch
from serving.process import Deaths, end_soon
from triton_models import environment
from triton_models import state as heart
from triton_models.state import EngineState, find_hanging


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(environment.STATE, str(tmp_path))
    return tmp_path


def test_processes_are_told_by_their_files(state: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    for name in (f"prepare_0_0.{os.getpid()}.beat", f"sample_0_0.{child.pid}.beat"):
        (state / name).touch()
    found = heart.processes(("prepare", "sample"))
    assert found.pids == {"prepare_0_0": os.getpid(), "sample_0_0": child.pid}
    assert found.all_alive("prepare", "sample")
    assert not found.all_alive("composite")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not found.all_alive("sample")  # as a zombie already
    assert found.all_alive("prepare")
    child.wait()
    assert heart.processes(("prepare", "sample")).pids == {"prepare_0_0": os.getpid()}
    assert heart.instances(state) == {"prepare_0_0", "sample_0_0"}


def test_nothing_is_written_where_nobody_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.STATE, raising=False)
    monkeypatch.chdir(tmp_path)
    heart.start_beating("x")
    heart.write_state(EngineState(requests=0, answered=0))
    assert list(tmp_path.iterdir()) == []
    assert heart.processes(("prepare",)).all_alive("prepare")


def test_the_state_is_read_as_it_was_written(state: Path) -> None:
    assert heart.read_state(state) is None
    told = EngineState(requests=2, answered=5, flights=(flight(1.0),))
    heart.write_state(told)
    assert heart.read_state(state) == told
    (state / "engine.json").write_text("{")
    assert heart.read_state(state) is None


def flight(expected_s: float | None, network: str = "unet") -> Flight:
    return Flight(network=network, rows=2, since_s=100.0, expected_s=expected_s)


@pytest.mark.parametrize(
    ("flights", "now_s", "hanging"),
    [
        ([], 1000, []),
        ([flight(0.1)], 106, []),  # least
        ([flight(0.1)], 108, ["unet"]),
        ([flight(20.0)], 190, []),  # a long one
        ([flight(20.0)], 201, ["unet"]),
        ([flight(20.0), flight(20.0, "vae")], 290, []),  # one behind the other
        ([flight(None)], 390, []),  # the first ever
        ([flight(None)], 401, ["unet"]),
    ],
)
def test_a_hanging_network_is_told_from_a_slow_one(
    flights: list[Flight], now_s: float, hanging: list[str]
) -> None:
    state = EngineState(requests=1, answered=0, flights=tuple(flights))
    assert find_hanging(state, now_s, 7.0) == hanging


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
    health.sang(1.0, 0.25)
    check_health(url, 5)
    told = read(f"{url}/health/ready")
    assert (told["restarts"], told["last_failure"]) == (2, "the unet has died")
    assert (told["pipelines"], told["canary"]) == (["base"], {"at": 1.0, "seconds": 0.25})
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


def test_probes_are_told_no_lines_of_the_log(health: Health, url: str) -> None:
    health.restarted(1, "tritonserver has ended; its last lines:\n/secret/path.py")
    health.not_ready("gone\nsecret")
    told = read_any(f"{url}/health/ready")
    assert "secret" not in json.dumps(told)
    assert (told["reason"], told["last_failure"]) == (
        "gone",
        "tritonserver has ended; its last lines:",
    )
    health.restarted(2, "'/secret/a.pem': holds no key (see http://host/page, 3/4)")
    health.not_ready("/secret")
    told = read_any(f"{url}/health/ready")
    assert told["last_failure"] == "'…': holds no key (see http://host/page, 3/4)"


def test_the_command_line_asks_too(health: Health, url: str) -> None:
    assert main(["healthcheck", "--url", url]) == 1
    health.ready([])
    assert main(["healthcheck", "--url", url]) == 0
    assert main(["healthcheck", "--url", "http://127.0.0.1:1", "--timeout", "1"]) == 1


def test_another_server_on_the_health_port_is_told(url: str) -> None:
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
    """Whatever the status says."""
    try:
        return read(url)
    except urllib.error.HTTPError as error:
        return cast(dict[str, Any], json.load(error))


def read(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return cast(dict[str, Any], json.load(answer))


def test_deaths_are_told_at_once_and_once() -> None:
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    deaths = Deaths([each.pid for each in processes])
    try:
        assert not deaths.wait(0.0)
        processes[0].kill()
        assert deaths.wait(5.0)
        assert not deaths.wait(0.05)
        processes[1].kill()
        assert deaths.wait(5.0)
        assert not deaths.wait(0.0)
    finally:
        deaths.close()
        for each in processes:
            each.kill()
            each.wait()


def test_what_was_replaced_ends_by_itself_or_is_killed() -> None:
    quick = subprocess.Popen(["sleep", "0.2"])
    lingering = subprocess.Popen(["sleep", "60"])
    begun_s = time.monotonic()
    end_soon([quick.pid, lingering.pid], 1.0)
    assert time.monotonic() - begun_s < 3
    assert (quick.wait(), lingering.wait()) == (0, -signal.SIGKILL)


def test_an_instance_that_was_gone_before_anybody_looked_is_missed(state: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    (state / f"gone_0_1.{process.pid}.beat").touch()
    looking = Watch(os.getpid(), os.getpid(), state, {})
    try:
        with pytest.raises(ModelsDownError, match="gone") as down:
            looking.check()
        assert down.value.models == {"gone"}
        (state / f"gone_0_1.{process.pid}.beat").unlink()
        looking.note()
        looking.check()
    finally:
        looking.close()


@pytest.mark.parametrize(
    ("program", "late_s", "hangs"),
    [
        ("sleep", 20.0, True),
        ("spin", 20.0, False),  # starved, or slow
        ("spin", 100.0, True),  # in a loop without end
    ],
)
def test_a_network_that_hangs_is_told_from_one_that_is_starved(
    state: Path, monkeypatch: pytest.MonkeyPatch, program: str, late_s: float, hangs: bool
) -> None:
    code = "import time; time.sleep(60)" if program == "sleep" else "while True: pass"
    process = subprocess.Popen([sys.executable, "-c", code])
    monkeypatch.setattr(watch, "model_processes", lambda _: {"p_unet_0_0": process.pid})
    (state / f"p_unet_0_0.{process.pid}.beat").touch()
    late = Flight(network="p_unet_x", rows=2, since_s=time.monotonic() - late_s, expected_s=0.1)
    heart.write_state(EngineState(requests=1, answered=0, flights=(late,)))
    looking = Watch(os.getpid(), os.getpid(), state, {"p_unet_x": ("p_unet",)})
    looking._since_s = -math.inf
    try:
        found = None
        for _ in range(3):
            time.sleep(0.5)
            try:
                looking.check()
            except ModelsDownError as error:
                found = error
        assert (found is not None) == hangs
        if found is not None:
            assert found.models == {"p_unet"}
            assert found.hanging == {process.pid}
    finally:
        looking.close()
        process.kill()
        process.wait()
