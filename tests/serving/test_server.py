"""Start, supervision and stop of a real tritonserver."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc

from serving import launching
from serving import server as server_module
from serving.errors import CrashError, ModelsDownError, PortTakenError, ServingError, StartError
from serving.leftovers import SHARED_MEMORY, Belongings
from serving.ports import claim_port
from serving.process import model_processes
from serving.repositories import descriptors
from serving.server import EmbeddedServer
from serving.workspace import server_command
from tests.serving import toys
from tests.waiting import PATIENCE_S, wait_until

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("no_traces")]


def _serve(toy_repository: Path, folder: Path) -> tuple[subprocess.Popen[str], Path]:
    ready_file = folder / "ready.json"
    command = [sys.executable, "-m", "serving", "serve"]
    command += ["--repository", str(toys.add_pipeline(folder / "pipelines"))]
    command += ["--model-repository", str(toy_repository), "--grpc-port", "0"]
    command += ["--ready-file", str(ready_file)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: ready_file.exists() or process.poll() is not None)
    if not ready_file.exists():
        pytest.fail(f"serve is not ready: {process.communicate()[1]}")
    return process, ready_file


_CRASH = ["/bin/sh", "-c", "echo terminate called after throwing; kill -ABRT $$"]


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_server_that_crashes_at_start_is_started_once_more(
    crashes: int, toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [_CRASH] * crashes

    def command(*given: Any, **named: Any) -> list[str]:
        return commands.pop() if commands else server_command(*given, **named)

    monkeypatch.setattr(launching, "server_command", command)
    server = EmbeddedServer(model_repository=toy_repository, start_timeout_s=60)
    if crashes == 1:
        with server, grpc.InferenceServerClient(server.grpc_url) as client:
            assert client.is_server_ready()
    else:
        with pytest.raises(CrashError, match="terminate called"):
            server.start()


def test_a_crash_is_not_taken_for_models_that_do_not_load(
    toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "E1122 13:31:09.5 4 c.cc:1] failed to load 'double' version 1: Internal: gone"
    crash = ["/bin/sh", "-c", f'echo "{line}"; kill -SEGV $$']
    monkeypatch.setattr(launching, "server_command", lambda *given, **named: crash)
    with pytest.raises(CrashError, match=r"^tritonserver was ended by SIGSEGV while starting"):
        EmbeddedServer(model_repository=toy_repository).start()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_end_of_tritonserver_is_named(number: signal.Signals, toy_repository: Path) -> None:
    with EmbeddedServer(model_repository=toy_repository, start_timeout_s=60) as server:
        os.kill(server.pid, number)
        server.wait(PATIENCE_S, threading.Event())
        with pytest.raises(ServingError, match=r"^tritonserver (has|was) ended") as seen:
            server.check()
        assert not isinstance(seen.value, ModelsDownError)
        down = ModelsDownError("gone", {"double_0_0": None})
        with pytest.raises(ServingError, match=f"^tritonserver was ended by {number.name}"):
            server.reload(down)


def test_serve_writes_its_addresses_and_stops_on_sigterm(
    toy_repository: Path, tmp_path: Path
) -> None:
    process, ready_file = _serve(toy_repository, tmp_path)
    ready = json.loads(ready_file.read_text())
    assert ready["pid"] == process.pid
    with grpc.InferenceServerClient(f"127.0.0.1:{ready['grpc_port']}") as client:
        assert client.is_server_ready()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 0
    assert not ready_file.exists()
    assert f"ready: grpc 127.0.0.1:{ready['grpc_port']}" in output


def test_killing_the_parent_leaves_nothing(toy_repository: Path, tmp_path: Path) -> None:
    process, _ = _serve(toy_repository, tmp_path)
    tree = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(tree, timeout=PATIENCE_S)
    assert alive == []


def test_the_next_server_removes_what_one_left_that_was_killed_with_its_reaper(
    toy_repository: Path, tmp_path: Path
) -> None:
    process, _ = _serve(toy_repository, tmp_path)
    tree = psutil.Process(process.pid).children(recursive=True)
    reaper = next(each for each in tree if "serving.reaper" in each.cmdline())
    belongings = Belongings(**json.loads(reaper.cmdline()[-1])["belongings"])
    process.send_signal(signal.SIGSTOP)  # or it would repair what comes
    reaper.kill()
    process.kill()
    process.communicate()
    psutil.wait_procs([reaper], timeout=PATIENCE_S)
    with EmbeddedServer(model_repository=toy_repository):
        assert not belongings.state.exists()
        assert not list(SHARED_MEMORY.glob(f"{belongings.shm_prefix}*"))
        assert not Path(belongings.workspace).exists()
        _, alive = psutil.wait_procs(tree, timeout=PATIENCE_S)
        assert alive == []


def test_a_dead_model_is_seen_and_loaded_again(toy_repository: Path, tmp_path: Path) -> None:
    process, ready_file = _serve(toy_repository, tmp_path)
    first = _double(process.pid)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: _double(process.pid) not in (None, first))
    ready = json.loads(ready_file.read_text())
    assert ready["server_pid"] in {each.pid for each in psutil.Process(process.pid).children(True)}
    # The second interrupt kills what the first one asked to end.
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=PATIENCE_S)[1]
    assert "processes have ended: double_0_0; loading the models again" in output


def _double(pid: int) -> int | None:
    """The process of the model ``double`` below another one."""
    return model_processes(pid).get("double_0_0")


def test_two_servers_side_by_side(toy_repository: Path) -> None:
    servers = [EmbeddedServer(model_repository=toy_repository) for _ in range(2)]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(EmbeddedServer.start, servers))
        assert servers[0].grpc_url != servers[1].grpc_url
        servers[0].stop()
        with grpc.InferenceServerClient(servers[1].grpc_url) as client:
            assert client.is_model_ready("double")
        servers[1].check()
    finally:
        for server in servers:
            server.stop()


def test_networks_of_a_new_build_are_not_mixed_with_those_of_the_old(tmp_path: Path) -> None:
    folder = toys.add_pipeline(tmp_path / "pipelines")
    server = EmbeddedServer([folder])
    server._reaper = mock.Mock()
    server._descriptors = descriptors([folder])
    path = folder / "toy.pipeline.json"
    path.write_text(path.read_text().replace("epsilon", "v_prediction"))
    with pytest.raises(ServingError, match="gone: toy_unet_0_0; pipelines were built again"):
        server.reload(ModelsDownError("gone", {"toy_unet_0_0": None}))


def test_a_hanging_model_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    called = toys.add_hanging(tmp_path)
    server = EmbeddedServer(model_repository=tmp_path, stop_timeout_s=3.0)
    server.start()
    tensor = grpc.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b""], dtype=np.object_))
    with grpc.InferenceServerClient(server.grpc_url) as client:
        client.async_infer("hanging", [tensor], callback=lambda result, error: None)
        wait_until(called.exists)
        server.stop()


def test_a_broken_model_is_named(tmp_path: Path) -> None:
    toys.add_double(tmp_path)
    toys.add_python(tmp_path, "broken", "import no_such_module\n")
    toys.add_double(tmp_path, "garbled")
    (tmp_path / "garbled" / "1" / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(StartError) as failed:
        EmbeddedServer(model_repository=tmp_path).start()
    lines = str(failed.value).splitlines()
    assert "No module named 'no_such_module'" in next(line for line in lines if "broken" in line)
    assert any(line.strip().startswith("garbled: ") for line in lines)
    assert not any("double" in line for line in lines)
    assert len(lines) <= 4


def test_a_taken_port_is_named(toy_repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as refused:
            EmbeddedServer(model_repository=toy_repository, grpc_port=port).start()
    message = str(refused.value)
    assert f"port {port}" in message
    assert "--grpc-port" in message
    assert str(os.getpid()) in message


def test_a_port_that_is_taken_during_the_start_is_replaced(
    toy_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        claims = [taken.getsockname()[1]]
        monkeypatch.setattr(
            server_module,
            "claim_port",
            lambda *given: claims.pop() if claims else claim_port(*given),
        )
        with (
            EmbeddedServer(model_repository=toy_repository) as server,
            server.connection.open() as client,
        ):
            assert client.is_server_ready()
            assert server.ports["grpc"] != taken.getsockname()[1]


def test_free_ports_are_not_those_of_connections() -> None:
    ports = {claim_port("127.0.0.1", 0, "--grpc-port") for _ in range(50)}
    assert len(ports) == 50
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < below


def test_a_stop_while_starting(toy_repository: Path) -> None:
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    with pytest.raises(ServingError, match="stopped"):
        EmbeddedServer(model_repository=toy_repository).start(asked)
