"""Progress is a bar on a terminal and log lines elsewhere; both go to stderr."""

from __future__ import annotations

import io
import sys

import pytest

from build_engines.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    with progress("Working", 3, "step") as advance:
        advance(what="first")
        advance(2, "rest")


def test_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level("INFO"):
        work()
    assert "Working" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert "rest" in terminal.getvalue()
    assert "first" not in caplog.text


def test_lines_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        work()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:3] == ["Working", "  first", "  rest"]
    assert messages[3].startswith("Working: done in")
