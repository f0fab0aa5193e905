"""Which processes have to be replaced; with stand-ins for a server's processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sampling.flight import Flight
from serving import monitor
from serving.errors import ModelsDownError, ServingError
from serving.monitor import ProcessMonitor
from serving.stalls import StallDetector
from serving.times import BATCH_S, COMPUTING_S, ENDLESS_BATCH_S, STALL_S
from triton_models import state
from triton_models.state import EngineStatus, FrontEndStatus

ENSEMBLES = {"p_unet_x": ("p_unet", "p_controlnet")}


class Server:
    """The processes of a server's models, their clocks, and what monitors them."""

    def __init__(self, folder: Path, patches: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.processes: dict[str, int] = {}
        self.cpu_s = 0.0
        """That each of them has used."""
        self.now_s = 1000.0
        patches.setattr(monitor, "model_processes", lambda _: dict(self.processes))
        patches.setattr(monitor, "cpu_s", lambda _: self.cpu_s)
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        patches.setattr(monitor, "time", clock)
        patches.setattr(StallDetector.__init__, "__defaults__", (clock.monotonic,))

    def monitor(self) -> ProcessMonitor:
        return ProcessMonitor(os.getpid(), os.getpid(), self.folder, ENSEMBLES)


@pytest.fixture
def server(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(state_folder, monkeypatch)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def test_a_server_whose_folder_is_gone_is_started_again(server: Server) -> None:
    """As by a system that removes a user's shared memory at the end of a session."""
    monitored = server.monitor()
    monitored.check()
    shutil.rmtree(server.folder)
    with pytest.raises(ServingError, match="the folder of heartbeats is missing"):
        monitored.check()


def test_a_process_that_ends_is_missed(server: Server) -> None:
    server.processes = {"prepare_0_0": os.getpid(), "sample_0_0": os.getpid()}
    monitored = server.monitor()
    monitored.check()
    del server.processes["sample_0_0"]
    with pytest.raises(ModelsDownError, match=r"processes have ended: sample_0_0$") as down:
        monitored.check()
    assert down.value.models == {"sample"}
    assert not down.value.stalled
    server.processes["sample_0_0"] = os.getpid()
    monitored.check()


def test_a_process_that_ended_before_the_first_look_is_missed(server: Server) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    path = server.folder / f"gone_0_1.{ended.pid}.beat"
    path.touch()
    monitored = server.monitor()
    with pytest.raises(ModelsDownError, match="gone") as down:
        monitored.check()
    assert down.value.models == {"gone"}
    path.unlink(missing_ok=True)
    monitored.note()
    monitored.check()


def test_a_stopped_process_is_replaced(
    server: Server, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.processes = {"prepare_0_0": sleeper.pid}
    monitored = server.monitor()
    monkeypatch.setattr(monitor, "is_stopped", lambda pid: pid == sleeper.pid)
    with pytest.raises(ModelsDownError, match="stopped by a signal: prepare_0_0") as down:
        monitored.check()
    assert down.value.stalled == {sleeper.pid}
    monkeypatch.setattr(monitor, "is_stopped", lambda pid: pid == os.getpid())
    with pytest.raises(ServingError, match="tritonserver's process is stopped") as whole:
        monitored.check()
    assert not isinstance(whole.value, ModelsDownError)


def test_a_main_loop_that_does_not_move_is_replaced_after_10_s(server: Server) -> None:
    server.processes = {"sample_0_0": os.getpid()}
    (server.folder / f"sample_0_0.{os.getpid()}.beat").touch()
    monitored = server.monitor()
    for _ in range(round(STALL_S) + 1):
        monitored.check()
        server.now_s += 1.0
    with pytest.raises(ModelsDownError, match="main loops have not moved for 10 s") as down:
        monitored.check()
    assert down.value.stalled == {os.getpid()}
    assert str(os.getpid()) in str(down.value)


def begin_batch(server: Server, network: str = "p_unet_x") -> ProcessMonitor:
    """The monitor of a server whose batch has just begun."""
    server.processes = {"p_unet_0_0": 11, "p_controlnet_0_0": 12, "sample_0_0": os.getpid()}
    flight = Flight(network=network, rows=2, since_s=server.now_s, expected_s=0.1)
    state.write_status(EngineStatus(requests=1, answered=0, flights=(flight,)))
    return server.monitor()


def late_by(server: Server, late_s: float) -> ProcessMonitor:
    """The monitor of a server whose batch has taken so long; it was looked at a second ago."""
    monitored = begin_batch(server)
    server.now_s += late_s - 1.0
    monitored.check()  # whether it computes is not known yet
    server.now_s += 1.0
    return monitored


def test_a_network_that_does_not_compute_is_replaced(server: Server) -> None:
    monitored = late_by(server, BATCH_S + 5)
    with pytest.raises(ModelsDownError, match="batches of networks do not end") as down:
        monitored.check()
    assert down.value.models == {"p_unet", "p_controlnet"}
    assert down.value.stalled == {11, 12}


def test_a_network_that_computes_is_given_time(server: Server) -> None:
    monitored = late_by(server, BATCH_S + 5)
    server.cpu_s += 2 * COMPUTING_S
    monitored.check()
    with pytest.raises(ModelsDownError):  # nothing since then
        monitored.check()


def test_a_loop_without_end_is_replaced(server: Server) -> None:
    monitored = late_by(server, ENDLESS_BATCH_S - 1)
    server.cpu_s += 1.0
    monitored.check()
    server.now_s += 2.0
    server.cpu_s += 1.0
    with pytest.raises(ModelsDownError, match="batches of networks do not end"):
        monitored.check()


def test_a_network_inside_tritonserver_has_the_whole_server_started_again(server: Server) -> None:
    monitored = begin_batch(server, "native_unet")
    monitored.check()
    server.now_s += BATCH_S + 5
    with pytest.raises(ServingError, match="native_unet") as whole:
        monitored.check()
    assert not isinstance(whole.value, ModelsDownError)


def test_a_model_that_was_loaded_again_begins_anew(server: Server) -> None:
    monitored = late_by(server, BATCH_S + 5)
    monitored.note()
    monitored.check()
    monitored.check()


@pytest.mark.parametrize(("lost", "must_restart"), [(0, False), (24, False), (25, True)])
def test_a_server_that_lost_too_many_calls_must_restart(
    server: Server, lost: int, must_restart: bool
) -> None:
    monitored = server.monitor()
    assert not monitored.must_restart()
    for model, count in (("segs_detailer", 0), ("segs_detailer_stream", lost)):
        status = FrontEndStatus(model=model, pending=0, arrived=0, lost=count, lost_limit=24)
        state.write_status(status)
    assert monitored.must_restart() is must_restart


def test_the_end_of_a_process_ends_the_wait(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "model_processes", lambda _: {"sample_0_0": sleeper.pid})
    monitored = ProcessMonitor(os.getpid(), os.getpid(), tmp_path, {})
    sleeper.send_signal(signal.SIGKILL)
    monitored.wait(600.0, threading.Event())
    asked = threading.Event()
    asked.set()
    monitored.wait(600.0, asked)
