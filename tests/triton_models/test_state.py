"""Heartbeats and statuses, as processes write them and others read them."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from pathlib import Path

import pytest

from sampling.flight import Flight
from triton_models import environment, state
from triton_models.state import EngineStatus, FrontEndStatus, Heartbeat

FRONT_END = FrontEndStatus(model="segs_detailer", pending=3, arrived=9, lost=1, lost_limit=24)


def test_a_heartbeat_touches_its_file(state_folder: Path) -> None:
    heartbeat = Heartbeat("sample_0_0")
    assert list(state_folder.iterdir()) == []
    heartbeat.beat()
    (path,) = state_folder.iterdir()
    assert state.parse_heartbeat(path) == ("sample_0_0", os.getpid())
    os.utime(path, (0, 0))
    heartbeat.beat()
    assert path.stat().st_mtime > 0


def test_a_heartbeat_of_an_event_loop_comes_after_each_report(
    state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "HEARTBEAT_S", 0.0)
    reports: list[int] = []

    async def run() -> None:
        beating = asyncio.ensure_future(Heartbeat("sample_0_0").run(lambda: reports.append(1)))
        while len(reports) < 3:
            await asyncio.sleep(0)
        beating.cancel()

    monkeypatch.setattr("triton_models.memory.EVERY_S", 1.0)
    monkeypatch.setattr(Heartbeat, "beat", lambda self: reports.append(2))
    asyncio.run(run())
    assert reports[:4] == [1, 2, 1, 2]


def test_processes_are_found_by_their_heartbeats(state_folder: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    for name in (f"prepare_0_0.{os.getpid()}.beat", f"sample_0_0.{child.pid}.beat"):
        (state_folder / name).touch()
    assert state.all_alive(("prepare", "sample"))
    assert not state.all_alive(("prepare", "composite"))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not state.all_alive(("sample",))  # as a zombie already
    assert state.all_alive(("prepare",))
    child.wait()
    assert state.instances(state_folder) == {"prepare_0_0", "sample_0_0"}


def test_without_a_folder_nothing_is_written_and_all_count_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.STATE, raising=False)
    monkeypatch.chdir(tmp_path)
    Heartbeat("x").beat()
    state.write_status(EngineStatus(requests=0, answered=0))
    assert list(tmp_path.iterdir()) == []
    assert state.all_alive(("prepare",))
    assert state.drain_order() is None


def test_the_engines_status_is_read_as_it_was_written(state_folder: Path) -> None:
    assert state.read_engine(state_folder) is None
    flight = Flight(network="unet", rows=2, since_s=100.0, expected_s=1.0)
    written = EngineStatus(requests=2, answered=5, flights=(flight,))
    state.write_status(written)
    assert state.read_engine(state_folder) == written
    (state_folder / "engine.json").write_text("{")
    assert state.read_engine(state_folder) is None
    state.remove_engine_status(state_folder)
    state.remove_engine_status(state_folder)
    assert list(state_folder.iterdir()) == []


def test_each_front_end_has_its_status(state_folder: Path) -> None:
    stream = FRONT_END.model_copy(update={"model": "segs_detailer_stream", "followed": 2})
    for status in (stream, FRONT_END):
        state.write_status(status)
    assert state.read_front_ends(state_folder) == [FRONT_END, stream]
    (state_folder / "broken.front.json").write_text("{")
    assert state.read_front_ends(state_folder) == [FRONT_END, stream]


def test_an_order_is_read_as_it_was_given(state_folder: Path) -> None:
    assert state.drain_order() is None
    state.order_drain(state_folder, "refuse")
    assert state.drain_order() == "refuse"
    state.order_drain(state_folder, "end")
    assert state.drain_order() == "end"


def test_without_room_the_last_status_is_overwritten(
    state_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.write_status(EngineStatus(requests=10, answered=12345))

    def full(path: Path, text: str) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    written = EngineStatus(requests=1, answered=2)
    state.write_status(written)
    assert state.read_engine(state_folder) == written
    assert [path.name for path in state_folder.iterdir()] == ["engine.json"]
    (state_folder / "engine.json").unlink()
    state.write_status(written)  # the server is being stopped
    assert list(state_folder.iterdir()) == []
