"""The chart as Helm renders it, without a cluster.

Helm is a library in Go, which crashes in a process where OpenVINO was used; it has its own.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.deploy.compose import ROOT

CHART = ROOT / "deploy" / "kubernetes" / "segs-detailer"
RELEASE, NAMESPACE = "demo", "prod"
Manifest = dict[str, Any]


class ChartError(Exception):
    """Helm refuses the values or a template; its words."""


def require_helm() -> None:
    """Skips the test, or the module, where Helm is not installed."""
    if find_spec("helm_python") is None:
        pytest.skip("the package helm-python-sdk is not installed", allow_module_level=True)


def load(text: str) -> list[Manifest]:
    """All documents of a YAML text that are not empty."""
    return [each for each in YAML(typ="safe").load_all(text) if each]


def render(values: Mapping[str, Any] | None = None) -> list[Manifest]:
    """The manifests.

    Raises:
        ChartError: values that the chart's schema or a template refuses.
    """
    files = _helm().submit(_files, dict(values or {})).result()
    return [each for name, text in files.items() if name.endswith(".yaml") for each in load(text)]


@cache
def _helm() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _files(values: Mapping[str, Any]) -> dict[str, str]:
    import helm_python as helm

    try:
        with helm.Chart.load(str(CHART)) as chart:
            given = dict(values)
            chart.validate_schema(given)
            return dict(chart.render(given, name=RELEASE, namespace=NAMESPACE))
    except helm.HelmError as error:
        raise ChartError(str(error)) from None


def lint(values: Mapping[str, Any]) -> list[str]:
    """What Helm's linter complains of."""
    return _helm().submit(_complaints, dict(values)).result()


def _complaints(values: Mapping[str, Any]) -> list[str]:
    import helm_python as helm

    report = helm.lint(str(CHART), dict(values), strict=True)
    grave = [str(each) for each in report["messages"] if each["severity"] > 1]
    return [*report["errors"], *grave]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of this kind whose name ends so."""
    (found,) = [
        each
        for each in manifests
        if each["kind"] == kind and each["metadata"]["name"].endswith(name)
    ]
    return found


def pod(manifests: list[Manifest], name: str) -> Manifest:
    """The pod's specification of a Deployment."""
    spec: Manifest = find(manifests, "Deployment", name)["spec"]["template"]["spec"]
    return spec
