"""What the soak goes by: what a process holds, what counts as growth, how it is drawn."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.chart import Chart, draw
from tests.faults.observe import Held, sample, shared_files
from tests.faults.soak import growth

MIB = 2**20


def test_a_process_is_seen_to_hold_more() -> None:
    gc.collect()
    before = sample({"me": os.getpid()}, 0.0).total
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    # Not of the heap, which may have that much to spare.
    block = mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(os.urandom(64 * MIB))
    read, write = os.pipe()
    after = sample({"me": os.getpid()}, 1.0).total
    over.set()
    thread.join()
    os.close(read)
    os.close(write)
    block.close()
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
