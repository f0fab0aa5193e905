"""docs/hardening.md against the real parser, the code and the images."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from serving import __main__ as serving_cli
from serving.exposure import FIXED_RELEASE
from serving.flags import server_options
from serving.options import RESTRICTED
from tests.deploy.compose import ROOT
from tests.deploy.dockerfiles import Dockerfile

TEXT = (ROOT / "docs" / "hardening.md").read_text()
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", " ")
COMMANDS = [
    line.partition("   #")[0].partition(">>")[0]
    for line in BLOCKS.splitlines()
    if line.startswith("python -m serving ")
]


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    serving_cli._parser().parse_args(shlex.split(command)[3:])


def test_options_of_the_container_parse() -> None:
    (options,) = re.findall(r'^SERVE_OPTIONS="(.*)"$', BLOCKS, re.MULTILINE)
    words = ["serve", "--repository", "x", *shlex.split(options)]
    parsed = server_options(serving_cli._parser().parse_args(words))
    assert parsed.tls is not None
    assert parsed.api_keys is not None


def test_every_flag_of_access_is_told() -> None:
    (commands,) = [
        action
        for action in serving_cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    groups = commands.choices["serve"]._action_groups
    (access,) = [each for each in groups if each.title == "who may call, and what"]
    flags = {action.option_strings[0] for action in access._group_actions}
    assert "--tls-cert" in flags
    assert [flag for flag in flags if f"`{flag}" not in TEXT] == []


def test_restricted_protocols_are_told() -> None:
    assert [name for name in RESTRICTED if f"`{name}`" not in TEXT] == []


def test_the_image_has_the_fixes_that_are_listed() -> None:
    fixed = re.findall(r"^\| (\d\d\.\d\d) \|", TEXT, re.MULTILINE)
    assert fixed == sorted(fixed)
    assert fixed[-1] == FIXED_RELEASE
    (base,) = Dockerfile(ROOT / "deploy/docker/gpu.Dockerfile").values("FROM")
    release = base.rpartition(":")[2].partition("-")[0]
    assert release >= FIXED_RELEASE
