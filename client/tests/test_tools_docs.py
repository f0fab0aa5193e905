"""The tools' documentation runs: docstring examples and the page of examples."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from segs_client import tools

PAGE = Path(__file__).parents[2] / "docs" / "segs.md"


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(tools.__path__)])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(f"segs_client.tools.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS, extraglobs={"np": np})
    assert failed == 0


def test_the_page_of_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    blocks = text.split("```python\n")[1:]
    code = "\n".join(block.partition("```")[0] for block in blocks)
    missing = [name for name in tools.__all__ if f"tools.{name}(" not in text]
    assert not missing
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(code, {}, "segs.md", str(PAGE), 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
