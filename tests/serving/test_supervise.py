"""Pauses between starts, and signals; without a server."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from serving.errors import ServingError
from serving.health import Health
from serving.options import ServerOptions
from serving.supervise import _signals, _Supervisor


@pytest.mark.parametrize(("in_row", "pause_s"), [(0, 0), (1, 1), (3, 7), (6, 60), (5000, 60)])
def test_pauses_double_up_to_a_minute(
    in_row: int, pause_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = _Supervisor(ServerOptions(), None, Health())
    supervisor._in_row = in_row
    supervisor._stop_asked.set()
    assert supervisor._pause(ServingError("gone"))
    assert f"gone; starting the server again in {pause_s} s, for the 1. time" in caplog.text


@pytest.mark.parametrize(
    ("content", "stays"),
    [
        ('{"pid": OWN}', False),
        ('{"pid": 1}', True),
        ("{", True),
        ("[]", True),
        ("{}", True),
    ],
)
def test_only_ones_own_ready_file_is_removed(content: str, stays: bool, tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    supervisor = _Supervisor(ServerOptions(), path, Health())
    supervisor._update_ready_file(None)
    path.write_text(content.replace("OWN", str(os.getpid())))
    supervisor._update_ready_file(None)
    assert path.exists() == stays


def test_a_server_that_does_not_start_leaves_anothers_ready_file(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text('{"pid": 1}')
    with pytest.raises(ServingError, match="no such folder"):
        _Supervisor(ServerOptions((tmp_path / "none",)), path, Health()).run()
    assert path.read_text() == '{"pid": 1}'


def test_a_signal_that_comes_while_its_lock_is_held_is_handled() -> None:
    lock = threading.Lock()
    handled = threading.Event()

    def handle() -> None:
        with lock:
            handled.set()

    before = signal.getsignal(signal.SIGTERM)
    with _signals(handle):
        with lock:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            assert not handled.is_set()
        assert handled.wait(5)
    assert signal.getsignal(signal.SIGTERM) == before
