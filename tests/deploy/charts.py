"""The chart as Helm renders it, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import helm_python as helm
from ruamel.yaml import YAML

from tests.deploy.compose import ROOT

CHART = ROOT / "deploy" / "kubernetes" / "segs-detailer"
RELEASE, NAMESPACE = "demo", "prod"
Manifest = dict[str, Any]


def load(text: str) -> list[Manifest]:
    """All documents of a YAML text that are not empty."""
    return [each for each in YAML(typ="safe").load_all(text) if each]


def render(values: Mapping[str, Any] | None = None) -> list[Manifest]:
    """The manifests.

    Raises:
        HelmError: values that the chart's schema or a template refuses.
    """
    with helm.Chart.load(str(CHART)) as chart:
        given = dict(values or {})
        chart.validate_schema(given)
        files = chart.render(given, name=RELEASE, namespace=NAMESPACE)
    return [each for name, text in files.items() if name.endswith(".yaml") for each in load(text)]


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
