"""The command line as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from build_engines import VerificationError, cli
from tests.conftest import CHECKPOINTS

ROOT = Path(__file__).parent.parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "build_engines", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_names_the_options_and_exit_codes() -> None:
    result = run("--help")
    assert result.returncode == 0
    for text in ("--name", "--repository", "--target", "exit codes"):
        assert text in result.stdout


def test_a_refusal_is_one_line_without_traceback(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(b"\x80\x04.")
    result = run(str(checkpoint), "--name", "x", "--repository", str(tmp_path / "repository"))
    assert result.returncode == 3
    assert "can run any code" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "repository").exists()


def test_a_terminated_build_leaves_nothing(tmp_path: Path) -> None:
    arguments = [str(CHECKPOINTS / "sd15"), "--name", "x", "--repository", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "build_engines", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "text_encoder: exported" in line:
            process.terminate()
            break
    rest = process.stderr.read()
    assert process.wait(60) == cli.INTERRUPTED
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


def test_missing_arguments_are_exit_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(VerificationError("differs"), 4), (OSError("disk full"), 1), (KeyboardInterrupt(), 130)],
)
def test_failures_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    code: int,
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(cli, "build", fail)
    with caplog.at_level("ERROR"):
        arguments = [str(CHECKPOINTS / "sd15"), "--name", "x", "--repository", "r"]
        assert cli.main(arguments) == code
    assert (str(error) or "interrupted") in caplog.text
