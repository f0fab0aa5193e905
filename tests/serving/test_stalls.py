"""Signs of life: written, also where there is no room, and missed."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
from serving.silence import Silence

from triton_models import environment
from triton_models import state as heart
from triton_models.state import DoorState, EngineState

LIMIT_S = 7.0


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(environment.STATE, str(tmp_path))
    return tmp_path


class Looks:
    """Looks at a folder, at times that a test says."""

    def __init__(self, place: Path) -> None:
        self.now_s = 100.0
        self._silence = Silence(place, LIMIT_S, lambda: self.now_s)

    def after(self, *gaps_s: float) -> set[str]:
        """Who is silent at the last of some looks."""
        found: set[str] = set()
        for gap_s in gaps_s:
            self.now_s += gap_s
            found = set(self._silence.look())
        return found


def beat(state: Path, *instances: str) -> None:
    for instance in instances:
        path = state / f"{instance}.{os.getpid()}.beat"
        path.touch()
        os.utime(path, ns=(0, time.time_ns()))


def test_a_heart_beats(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "BEAT_S", 0.02)
    heart.start_beating("sample_0_0")
    (path,) = state.glob("sample_0_0.*.beat")
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 5
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0


def test_silence_is_seen(state: Path) -> None:
    looks = Looks(state)
    beat(state, "p_unet_0_0", "prepare_0_1")
    assert looks.after(*[1.0] * 8) == set()
    assert looks.after(1.0) == {"p_unet_0_0", "prepare_0_1"}
    beat(state, "prepare_0_1")
    assert looks.after(1.0) == {"p_unet_0_0"}


def test_the_wall_clock_may_be_set(state: Path) -> None:
    looks = Looks(state)
    for hour in (0, 1, -1, 2, 0):
        path = state / f"sample_0_0.{os.getpid()}.beat"
        path.touch()
        at_ns = time.time_ns() + hour * 3600 * 10**9
        os.utime(path, ns=(at_ns, at_ns))
        assert looks.after(1.0) == set()


def test_a_machine_that_stood_still_is_given_time(state: Path) -> None:
    looks = Looks(state)
    beat(state, "sample_0_0")
    assert looks.after(1.0, 60.0, 60.0) == set()
    beat(state, "sample_0_0")
    assert looks.after(60.0, 1.0, 1.0) == set()
    assert looks.after(60.0, 60.0, 60.0) == {"sample_0_0"}


def test_an_event_loop_that_says_nothing_is_silent(state: Path) -> None:
    looks = Looks(state)
    heart.write_state(EngineState(requests=0, answered=0))
    heart.write_state(DoorState(model="segs_detailer", pending=0, lost=0))
    found = []
    for _ in range(25):
        beat(state, "sample_0_0", "segs_detailer_0_0", "prepare_0_0")
        found.append(looks.after(1.0))
    assert found[7] == set()
    assert found[8] == {"sample_0_0"}
    assert found[21] == {"sample_0_0"}
    assert found[22] == {"sample_0_0", "segs_detailer_0_0"}
    heart.write_state(EngineState(requests=0, answered=1))
    assert looks.after(1.0) == {"segs_detailer_0_0"}


def test_the_dead_are_not_silent(state: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    path = state / f"prepare_0_0.{process.pid}.beat"
    path.touch()
    assert Looks(state).after(*[1.0] * 9) == set()
    assert not path.exists()


def test_where_there_is_no_room_the_last_words_are_overwritten(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EngineState(requests=10, answered=12345)
    heart.write_state(first)

    def full(path: Path, text: str) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    told = EngineState(requests=1, answered=2)
    heart.write_state(told)
    assert heart.read_state(state) == told
    assert [path.name for path in state.iterdir()] == ["engine.json"]
    (state / "engine.json").unlink()
    heart.write_state(told)  # the server is being stopped
    assert list(state.iterdir()) == []
