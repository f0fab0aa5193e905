"""deploy/monitoring: Prometheus' own tool, and Grafana's files against it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from serving import health_metrics
from tests.deploy.compose import ROOT, services
from triton_models.metrics import METRICS

MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "segs-detailer.json"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing: apt-get install prometheus"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All that promtool reads."""
    for path in (*MONITORING.glob("*.yml"), Path(__file__).parent / "alarms_test.yml"):
        shutil.copy(path, tmp_path)
    return tmp_path


def _promtool(folder: Path, *arguments: str) -> str:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_prometheus_takes_the_configuration(folder: Path) -> None:
    assert "1 rule files found" in _promtool(folder, "check", "config", "prometheus.yml")


@needs_promtool
def test_each_alarm_is_raised_by_what_it_is_for(folder: Path) -> None:
    _promtool(folder, "test", "rules", "alarms_test.yml")


def _alarms() -> list[str]:
    (group,) = YAML(typ="safe").load(MONITORING / "alarms.yml")["groups"]
    return [rule["alert"] for rule in group["rules"] if "alert" in rule]


def test_every_alarm_is_tested_and_told() -> None:
    tested = (Path(__file__).parent / "alarms_test.yml").read_text()
    told = re.findall(r"^\| `(Segs\w+)` \|", OPERATIONS.read_text(), re.MULTILINE)
    assert sorted(told) == sorted(_alarms())
    assert [name for name in _alarms() if f"alertname: {name}\n" not in tested] == []


def _expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@needs_promtool
def test_prometheus_takes_what_the_dashboard_asks(folder: Path) -> None:
    rules = [
        {"record": f"panel:{index}", "expr": text} for index, text in enumerate(_expressions())
    ]
    (folder / "panels.yml").write_text(json.dumps({"groups": [{"name": "x", "rules": rules}]}))
    assert f"{len(rules)} rules found" in _promtool(folder, "check", "rules", "panels.yml")


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    provisioned = MONITORING / "grafana" / "datasources" / "prometheus.yml"
    (source,) = YAML(typ="safe").load(provisioned)["datasources"]
    dashboard = json.loads(DASHBOARD.read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    recorded = set(re.findall(r"segs:\w+:\w+", (MONITORING / "alarms.yml").read_text()))
    assert set(re.findall(r"segs:\w+:\w+", " ".join(_expressions()))) <= recorded
    grafana = services()["grafana"]
    mounted = {volume.split(":")[1] for volume in grafana["volumes"]}
    providers = YAML(typ="safe").load(DASHBOARD.with_name("dashboards.yml"))["providers"]
    assert {provider["options"]["path"] for provider in providers} <= mounted


def _metrics(text: str) -> set[str]:
    """Metrics that are named; of a histogram its own name."""
    found = set(re.findall(r"\b(?:segs|nv)_\w+", re.sub(r'"[^"]*"', "", text)))
    return {
        re.sub(r"_(bucket|sum|count)$", "", name) if name not in known() else name for name in found
    }


def known() -> set[str]:
    """What a server tells: ours, and what docs/metrics.md says of Triton's own."""
    tritons = re.findall(r"`(nv_\w+)`", (ROOT / "docs" / "metrics.md").read_text())
    return {*METRICS, *health_metrics.METRICS, *tritons}


def test_alarms_and_dashboard_name_what_there_is() -> None:
    rules = YAML(typ="safe").load(MONITORING / "alarms.yml")["groups"][0]["rules"]
    asked = _metrics(" ".join(rule["expr"] for rule in rules))
    shown = _metrics(" ".join(_expressions()))
    assert asked <= known()
    assert shown <= known()
    assert {*METRICS, *health_metrics.METRICS} <= shown
    examples = (ROOT / "docs" / "metrics.md").read_text().split("Questions, and")[1].split("###")[0]
    assert _metrics(examples) <= known()


def test_the_chart_scales_on_a_metric_that_there_is() -> None:
    values = YAML(typ="safe").load(ROOT / "deploy" / "kubernetes" / "segs-detailer" / "values.yaml")
    assert METRICS[values["autoscaling"]["metric"]].kind == "gauge"
