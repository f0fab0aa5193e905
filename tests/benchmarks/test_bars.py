"""The load benchmarks in small, on networks that only wait. Their bars are theirs to look at: here
no time decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import fairness, load
from benchmarks.bench import Bench, running
from benchmarks.gpu_curve import Curve, curves
from benchmarks.standin import NAME, local_standin, tiny_repository, write_standin
from benchmarks.workload import Kind
from request_plan.limits import DEFAULT, Limits

pytestmark = pytest.mark.server

ON_GPU = Kind(256, 16)
ON_CPU = Kind(256, 4)


def served(folder: Path, using: dict[str, Curve], limits: Limits) -> Iterator[Bench]:
    write_standin(folder, tiny_repository(), using)
    with running(folder, NAME, local_standin(folder, using), limits) as bench:
        yield bench


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Rows cost nothing until a batch is full."""
    yield from served(tmp_path_factory.mktemp("gpu"), curves(), DEFAULT)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Every row costs the same."""
    using = curves(scale=0.5, flat_rows=0.25)
    yield from served(tmp_path_factory.mktemp("cpu"), using, DEFAULT)


def test_eight_requests_share_a_gpu(gpu: Bench) -> None:
    gpu.warm_up(ON_GPU)
    found = load.measure_together(gpu, ON_GPU, 8, rounds=1)
    assert found.rows > ON_GPU.rows


def test_a_small_request_is_not_held_up_by_a_large_one(cpu: Bench) -> None:
    cpu.warm_up(ON_CPU)
    large = Kind(ON_CPU.size, ON_CPU.steps, segs=24)
    found = fairness.measure(cpu, large, ON_CPU, clients=1)
    assert len(found.small_s) >= 3  # answered while the large one was at work
