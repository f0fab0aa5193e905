"""Limits on the command line, on their way to the models, and in the docs."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from request_plan.limits import DEFAULT, Limits
from serving.__main__ import _parser, main
from serving.flags import chosen_limits
from serving.installation import Installation
from serving.options import ServerOptions
from serving.workspace import server_environment
from triton_models import environment


def chosen(*arguments: str) -> Limits:
    return chosen_limits(_parser().parse_args(["serve", "--repository", "x", *arguments]))


def test_without_a_choice_the_defaults_are() -> None:
    assert chosen() == DEFAULT


def test_each_limit_has_a_flag() -> None:
    for each in fields(Limits):
        least = each.metadata["least"]
        value = DEFAULT.max_memory_bytes if "memory" in each.name else max(least, 2)
        flag = "--" + each.name.replace("_", "-")
        assert getattr(chosen(flag, f"{value}"), each.name) == value


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "limits.json"
    file.write_text('{"max_segs": 7, "max_slowdown": 3}')
    limits = chosen("--limits", str(file), "--max-segs", "9")
    assert (limits.max_segs, limits.max_slowdown) == (9, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"max_seg": 1}', "no such limit"),
        ('{"max_segs": 0}', "max_segs: a whole number"),
        ("max_segs = 3", "Expecting value"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_ends_the_start_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None, words: str
) -> None:
    file = tmp_path / "limits.json"
    if text is not None:
        file.write_text(text)
    assert main(["serve", "--repository", str(tmp_path), "--limits", str(file)]) == 1
    assert words in caplog.text


def test_the_models_get_them(tmp_path: Path) -> None:
    limits = chosen("--max-segs", "9", "--max-slowdown", "2.5")
    installation = Installation(tmp_path / "tritonserver", (), tmp_path)
    options = ServerOptions(limits=limits)
    variables = server_environment(options, installation, tmp_path, tmp_path)
    text = variables[environment.LIMITS]
    assert json.loads(text)["max_segs"] == 9
    assert Limits.from_mapping(Limits.read(text)) == limits
