"""The commands of docs/production.md, against the compose file and the real parsers."""

from __future__ import annotations

import re
import shlex

import pytest

from build_engines import cli as build_cli
from segs_client import cli as client_cli
from segs_client.base_client import DEFAULT_URL
from segs_client.flags import given_options
from serving import __main__ as serving_cli
from tests.deploy import compose
from tests.deploy.compose import ROOT, SETTINGS
from tests.deploy.dockerfiles import Dockerfile

TEXT = (ROOT / "docs" / "production.md").read_text()
LINES = [
    line.partition("   #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]
COMPOSE_COMMANDS = [line for line in LINES if "docker compose" in line]
COMPOSE_COMMANDS += re.findall(r"`(docker compose [^`]+)`", TEXT)


def test_every_line_is_of_a_kind_that_is_checked() -> None:
    kinds = r"cp |segs-detail |curl |(\w+=\S+ )*docker compose |BUILD_OPTIONS="
    assert [line for line in LINES if not re.match(kinds, line)] == []
    assert len(COMPOSE_COMMANDS) >= 8


@pytest.mark.parametrize("command", COMPOSE_COMMANDS)
def test_compose_commands_name_what_there_is(command: str) -> None:
    words = shlex.split(command)
    start = words.index("docker")
    assert {word.partition("=")[0] for word in words[:start]} <= set(compose.settings())
    assert words[start : start + 3] == ["docker", "compose", "--profile"]
    profile, verb, *rest = words[start + 3 :]
    assert verb in {"up", "run", "restart", "ps", "logs"}
    known = {"--detach", "--wait", "--rm", "--follow"}
    named = [word for word in rest if not word.startswith("--")]
    assert set(rest) - set(named) <= known
    for service in named:
        assert compose.services()[service]["profiles"] == [profile]


def test_the_client_command_parses() -> None:
    (command,) = [line for line in LINES if line.startswith("segs-detail ")]
    given = client_cli._parser().parse_args(shlex.split(command)[1:])
    assert given_options(given, given.option)["pipeline"] == compose.settings()["PIPELINE"][0]
    assert given.url is None
    assert "127.0.0.1:{}".format(compose.settings()["GRPC_PORT"][0]) == DEFAULT_URL


def test_metrics_and_health_are_where_the_text_says() -> None:
    urls = [line.split()[1] for line in LINES if line.startswith("curl ")]
    settings = compose.settings()
    assert urls == [
        f"http://127.0.0.1:{settings['HEALTH_PORT'][0]}/health/ready",
        f"http://127.0.0.1:{settings['METRICS_PORT'][0]}/metrics",
    ]


def test_examples_of_further_options_parse() -> None:
    build, serve = re.findall(r"^# .*such as (--.*)$", SETTINGS.read_text(), re.MULTILINE)
    (documented,) = [line.partition("=")[2] for line in LINES if line.startswith("BUILD_OPTIONS=")]
    services = compose.services()
    for options in (build, documented):
        command = services["builder-cpu"]["command"] + " " + options
        build_cli._parser().parse_args(shlex.split(command)[3:])
    serving_cli._parser().parse_args(shlex.split(services["triton"]["command"] + " " + serve)[3:])


def test_settings_and_versions_in_the_text_are_those_of_the_files() -> None:
    names = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", TEXT))
    dockerfile = Dockerfile(ROOT / "deploy/docker/gpu.Dockerfile")
    assert names <= set(compose.settings()) | set(dockerfile.arguments)
    assert dockerfile.values("FROM")[0] in TEXT
    assert f"| TensorRT | {dockerfile.arguments['TENSORRT_VERSION']} |" in TEXT
