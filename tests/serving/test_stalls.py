"""Which processes stall, by their heartbeats, and which batches are late."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sampling.flight import Flight
from serving.stalls import StallDetector, late_networks
from serving.times import FIRST_BATCH_S
from triton_models.state import EngineStatus

LIMIT_S = 7.0


class Looks:
    """Looks at a folder, at times that a test sets."""

    def __init__(self, place: Path) -> None:
        self.now_s = 100.0
        self._stalls = StallDetector(place, LIMIT_S, lambda: self.now_s)

    def after(self, *gaps_s: float) -> set[str]:
        """The instances that stall at the last of some looks."""
        found: set[str] = set()
        for gap_s in gaps_s:
            self.now_s += gap_s
            found = set(self._stalls.look())
        return found


def beat(folder: Path, *instances: str, at_ns: int | None = None) -> None:
    for instance in instances:
        path = folder / f"{instance}.{os.getpid()}.beat"
        path.touch()
        at_ns = time.time_ns() if at_ns is None else at_ns
        os.utime(path, ns=(0, at_ns))


def test_a_process_without_a_heartbeat_stalls(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    beat(tmp_path, "p_unet_0_0", "prepare_0_1")
    assert looks.after(*[1.0] * 8) == set()
    assert looks.after(1.0) == {"p_unet_0_0", "prepare_0_1"}
    beat(tmp_path, "prepare_0_1")
    assert looks.after(1.0) == {"p_unet_0_0"}


def test_the_process_id_is_known(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    beat(tmp_path, "sample_0_0")
    looks.after(*[1.0] * 8)
    assert looks._stalls.look() == {}
    looks.now_s += 1.0
    assert looks._stalls.look() == {"sample_0_0": os.getpid()}


def test_the_wall_clock_may_be_set(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    for hour in (0, 1, -1, 2, 0):
        beat(tmp_path, "sample_0_0", at_ns=time.time_ns() + hour * 3600 * 10**9)
        assert looks.after(1.0) == set()


def test_a_machine_that_stood_still_is_given_time(tmp_path: Path) -> None:
    looks = Looks(tmp_path)
    beat(tmp_path, "sample_0_0")
    assert looks.after(1.0, 60.0, 60.0) == set()
    beat(tmp_path, "sample_0_0")
    assert looks.after(60.0, 1.0, 1.0) == set()
    assert looks.after(60.0, 60.0, 60.0) == {"sample_0_0"}


def test_processes_that_have_ended_do_not_stall(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    path = tmp_path / f"prepare_0_0.{process.pid}.beat"
    path.touch()
    assert Looks(tmp_path).after(*[1.0] * 9) == set()
    assert not path.exists()


def flight(expected_s: float | None, network: str = "unet") -> Flight:
    return Flight(network=network, rows=2, since_s=100.0, expected_s=expected_s)


@pytest.mark.parametrize(
    ("flights", "now_s", "late"),
    [
        ([], 1000, []),
        ([flight(0.1)], 106, []),  # least
        ([flight(0.1)], 108, ["unet"]),
        ([flight(20.0)], 190, []),  # a long one
        ([flight(20.0)], 201, ["unet"]),
        ([flight(20.0), flight(20.0, "vae")], 290, []),  # one behind the other
        ([flight(None)], 90 + FIRST_BATCH_S, []),  # the first ever
        ([flight(None)], 101 + FIRST_BATCH_S, ["unet"]),
    ],
)
def test_a_late_batch_is_told_from_a_slow_one(
    flights: list[Flight], now_s: float, late: list[str]
) -> None:
    engine = EngineStatus(requests=1, answered=0, flights=tuple(flights))
    assert late_networks(engine, now_s, LIMIT_S) == late


def test_batches_begin_again_when_a_model_was_loaded_again() -> None:
    engine = EngineStatus(requests=1, answered=0, flights=(flight(0.1),))
    assert late_networks(engine, 200.0, LIMIT_S, not_before_s=195.0) == []
    assert late_networks(engine, 203.0, LIMIT_S, not_before_s=195.0) == ["unet"]
