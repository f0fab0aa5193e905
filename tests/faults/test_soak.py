"""What the soak goes by: what a process holds, what counts as growth, how it is drawn."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.chart import Chart, draw
from tests.faults.observe import Held, sample, shared_files
from tests.faults.soak import growth

MIB = 2**20


HOLDER = """
import mmap, os, threading
print("begun", flush=True)
input()
over = threading.Event()
threading.Thread(target=over.wait).start()
# Not of the heap, which may have that much to spare.
block = mmap.mmap(-1, 64 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
block.write(os.urandom(64 * 2**20))
ends = os.pipe()
print("holds", flush=True)
input()
over.set()
"""


def test_a_process_is_seen_to_hold_more() -> None:
    """One of its own: others' threads come and go."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        assert it.stdin is not None
        assert it.stdout is not None
        assert it.stdout.readline() == "begun\n"
        before = sample({"it": it.pid}, 0.0).total
        it.stdin.write("\n")
        it.stdin.flush()
        assert it.stdout.readline() == "holds\n"
        after = sample({"it": it.pid}, 1.0).total
        it.communicate("\n")
    assert after.rss_bytes - before.rss_bytes > 60 * MIB
    assert after.anonymous_bytes - before.anonymous_bytes > 60 * MIB
    assert after.threads == before.threads + 1
    assert after.descriptors == before.descriptors + 2


def test_shared_memory_is_seen_with_what_it_takes() -> None:
    path = Path(f"/dev/shm/soak-test-{os.getpid()}")
    path.write_bytes(bytes(3 * MIB))
    try:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
            assert str(path) in shared_files([os.getpid()])
            assert sample({"me": os.getpid()}, 0.0).shared_bytes >= 3 * MIB
    finally:
        path.unlink()


def test_processes_that_have_ended_hold_nothing() -> None:
    assert sample({"nobody": 2**22 + 1}, 0.0).total == Held()


@pytest.mark.parametrize(
    ("points", "share"),
    [([100.0] * 20, 0.0), ([100.0] * 10 + [150.0] + [100.0] * 29, 0.0), (range(100, 200), 0.861)],
    ids=["flat", "a peak", "a line"],
)
def test_growth_is_between_the_first_and_the_last_tenth(points: list[float], share: float) -> None:
    assert growth(points).share == pytest.approx(share, abs=1e-3)


def test_a_chart_has_its_lines(tmp_path: Path) -> None:
    line = [(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)]
    draw(tmp_path / "chart.png", [Chart("one", {"a": line}), Chart("none", {})], "minutes")
    with Image.open(tmp_path / "chart.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**16) or []}
    assert (0x1F, 0x77, 0xB4) in colours
