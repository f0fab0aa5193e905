"""The generated references are those of the code."""

from __future__ import annotations

import re

import pytest

import segs_client
from docgen.__main__ import REFERENCES
from docgen.api import api_text
from docgen.contract import contract_text
from segs_client import tools
from segs_client.contract import DetailRequest


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.name)
def test_it_is_up_to_date(path: object) -> None:
    committed = next(each for each in REFERENCES if each == path)
    assert committed.read_text(encoding="utf-8") == REFERENCES[committed](), "run: make docs"


def test_every_public_name_is_there() -> None:
    shown = set(re.findall(r"^(?:### |\| \[?)`(\w+)`", api_text(), re.MULTILINE))
    public = {name for name in segs_client.__all__ if name != "tools"} | set(tools.__all__)
    assert shown == public


def test_a_method_has_its_signature_its_arguments_and_its_errors() -> None:
    text = api_text().split("#### `Client.detail`")[1].split("####")[0]
    assert "**options: Any" in text
    assert "- `timeout_s`: time-out of the call in seconds" in text
    assert "- `DeadlineExceeded`:" in text
    assert "``" not in text.replace("```", "")


def test_every_field_is_there_with_range_and_default() -> None:
    text = contract_text()
    section = text.split("## DetailRequest\n")[1].split("\n## ")[0]
    for name in DetailRequest.model_fields:
        assert f"| `{name}` |" in section
    assert "| `steps` | whole numbers 1 … 10000 | 20 | sampling steps per cycle |" in section
    assert "| `denoise` | number: 0.0001 … 1 | 0.5 |" in section
    linked = set(re.findall(r"\[`(\w+)`\]\(#", text))
    assert linked <= set(re.findall(r"^## (\w+)$", text, re.MULTILINE))
