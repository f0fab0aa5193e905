"""What is checked before a server starts: libraries and repositories; and log lines."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from serving import installation
from serving.errors import InstallationError, RepositoryError
from serving.installation import Installation, check_libraries, find_installation
from serving.logs import parse_failure, parse_line
from serving.repositories import check_repositories, model_folders
from tests.serving import toys


def test_missing_libraries_are_named_with_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ldd = tmp_path / "ldd"
    ldd.write_text(
        "#!/bin/sh\necho '\tlibpython3.11.so.1.0 => not found'\necho '\tlibodd.so.2 => not found'\n"
    )
    ldd.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(InstallationError) as missing:
        check_libraries(Installation(Path("/bin/true"), (), tmp_path))
    assert "libpython3.11.so.1.0: apt-get install libpython3.11" in str(missing.value)
    assert "libodd.so.2" in str(missing.value)


def test_no_stub_for_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(installation, "PYTHON_MINOR", "3.7")
    with pytest.raises(InstallationError, match=r"Python 3\.7; it has them for .*3\.11"):
        find_installation()


def test_folders_without_pipelines_or_with_strangers(tmp_path: Path) -> None:
    models = tmp_path / "models"
    toys.add_double(models)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RepositoryError, match="holds no pipeline"):
        check_repositories([empty], models)
    (empty / "x.pipeline.json").write_text("{}")
    with pytest.raises(RepositoryError, match=r"x\.pipeline\.json: .*name: Field required"):
        check_repositories([empty], models)
    for name in (".x.building", "lost+found"):
        (models / name).mkdir(0o700)
    assert check_repositories([], models) == {}
    assert [path.name for path in model_folders(models)] == ["double"]
    (models / "tokenizer").mkdir()
    with pytest.raises(RepositoryError, match=r"tokenizer: a folder without config\.pbtxt"):
        check_repositories([], models)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('I1122 13:31:09.5 43 a.cc:273] "loading: m:1"', (logging.DEBUG, "loading: m:1")),
        ('E1122 13:31:09.5 43 a.cc:2] "bad\\n x"', (logging.ERROR, "bad\n x")),
        ("WARNING sampling.engine slow", (logging.WARNING, "sampling.engine: slow")),
        ("print from a model", (logging.INFO, "print from a model")),
    ],
)
def test_log_lines(line: str, expected: tuple[int, str]) -> None:
    parsed = parse_line(line)
    assert parsed is not None
    assert (parsed.level, parsed.message) == expected


@pytest.mark.parametrize(
    "line",
    ["", "+----+", "| a | b |", 'I1122 13:31:09.5 4 c.cc:1] "CUDA memory pool disabled"'],
)
def test_noise_is_dropped(line: str) -> None:
    assert parse_line(line) is None


def test_failures_keep_the_first_line_and_place() -> None:
    message = "failed to load 'm' version 1: Internal: KeyError: 1\n\nAt:\n  a.py(3): init\n  b"
    assert parse_failure(message) == ("m", "Internal: KeyError: 1 (at a.py(3): init)")
