"""Which Python the Makefile makes .venv with. All Pythons here are scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parent.parent / "Makefile"
PYTHON = """\
#!/bin/bash
case "$*" in
*sys.exit*) {suits} ;;
*ensurepip*) {has_venv} && echo {version} ;;
"-m venv "*)
    mkdir -p "$3/bin"
    echo {name} >"$3/made_by"
    printf '#!/bin/bash\\n' >"$3/bin/pip"
    printf '#!/bin/bash\\n{uv}\\n' >"$3/bin/uv"
    chmod +x "$3"/bin/*
    ;;
esac
"""
UV = "mkdir .venv; echo uv $* >.venv/made_by"
NO_UV = "echo error: no network; exit 2"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the Makefile, and ``bin``, which is all the PATH there is."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("bin", "client"):
        (tmp_path / name).mkdir()
    for name in (
        "requirements.txt",
        "requirements-dev.txt",
        "pyproject.toml",
        "client/pyproject.toml",
    ):
        (tmp_path / name).touch()
    for name in ("chmod", "make", "mkdir", "mktemp", "rm", "sed", "tail", "touch"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def add_python(
    project: Path, name: str, version: str, *, has_venv: bool = True, uv: str = UV
) -> None:
    path = project / "bin" / name
    suits = str(version in ("3.10", "3.11", "3.12")).lower()
    path.write_text(
        PYTHON.format(
            name=name, version=version, suits=suits, has_venv=str(has_venv).lower(), uv=uv
        )
    )
    path.chmod(0o755)


def install(project: Path) -> tuple[int, str, str]:
    """make's exit code, its own lines, and what made .venv."""
    result = subprocess.run(
        ["make", "--silent", "install", "PIP_INSTALL=:"],
        cwd=project,
        env={**os.environ, "PATH": str(project / "bin"), "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    made_by = project / ".venv" / "made_by"
    return (
        result.returncode,
        (result.stdout + result.stderr).partition("Installing")[0],
        made_by.read_text().strip() if made_by.exists() else "",
    )


def test_python3_comes_first(project: Path) -> None:
    add_python(project, "python3", "3.10")
    add_python(project, "python3.11", "3.11")
    assert install(project) == (0, "", "python3")


def test_an_older_python_beside_a_new_python3(project: Path) -> None:
    add_python(project, "python3", "3.13")
    add_python(project, "python3.11", "3.11")
    assert install(project) == (0, "", "python3.11")


def test_uv_brings_one_where_all_are_too_new(project: Path) -> None:
    add_python(project, "python3", "3.14")
    status, said, made_by = install(project)
    assert (status, said.count("\n")) == (0, 1)
    assert "python3 is 3.14: uv fetches a 3.12" in said
    assert made_by == "uv venv --quiet --managed-python --python 3.12 --seed .venv"


def test_without_uvs_python_a_line_says_what_to_install(project: Path) -> None:
    add_python(project, "python3", "3.13", uv=NO_UV)
    status, said, made_by = install(project)
    assert (status, made_by) == (2, "")
    line = said.splitlines()[1]
    assert "uv cannot fetch it (error: no network). Install Python 3.10, 3.11 or 3.12" in line


@pytest.mark.parametrize("is_here", [True, False])
def test_no_python_that_makes_environments(project: Path, is_here: bool) -> None:
    if is_here:
        add_python(project, "python3", "3.11", has_venv=False)
    status, said, made_by = install(project)
    assert (status, made_by) == (2, "")
    assert "apt-get install python3 python3-venv" in said.splitlines()[0]
