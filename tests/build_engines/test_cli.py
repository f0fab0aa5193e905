"""The command line as a user meets it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from build_engines import TargetOptions, VerificationError, cli
from build_engines.errors import QualityError
from build_engines.options import QualityLimits, QuantizeOptions
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
    for text in (
        *("--name", "--repository", "--target", "--controlnet", "--prediction", "--lora"),
        *("--embedding", "--clip-skip", "exit codes"),
    ):
        assert text in result.stdout


def test_a_refusal_is_one_line_without_traceback(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.ckpt"
    checkpoint.write_bytes(b"\x80\x04.")
    result = run(str(checkpoint), "--name", "x", "--repository", str(tmp_path / "repository"))
    assert result.returncode == 3
    assert "can run any code" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--clip-skip", "99"), "clip_skip: 99; allowed for this Stable Diffusion 1.x checkpoint"),
        (("--clip-skip", "0"), "clip_skip: 0; allowed"),
        (("--lora", "ink.safetensors:nan"), "strengths nan:nan; allowed: finite numbers"),
        (("--controlnet", "a/b=net"), "controlnet: 'a/b'; allowed"),
    ],
)
def test_a_refused_option_is_a_wrong_argument(
    options: tuple[str, str], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = str(CHECKPOINTS / "sd15")
    assert cli.main([checkpoint, "--name", "x", "--repository", str(tmp_path), *options]) == 2
    assert words in caplog.text


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
    [
        (VerificationError("differs"), 4),
        (QualityError("too far"), 5),
        (OSError("disk full"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_failures_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    code: int,
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "build", fail)
    with caplog.at_level("ERROR"):
        arguments = [str(CHECKPOINTS / "sd15"), "--name", "x", "--repository", "r"]
        assert cli.main(arguments) == code
    assert (str(error) or "interrupted") in caplog.text


def test_controlnets_are_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Mapping[str, Path] | None] = []

    def record(
        checkpoint: Path,
        name: str,
        repository: Path,
        target: TargetOptions,
        controlnets: Mapping[str, Path] | None = None,
        **rest: object,
    ) -> None:
        calls.append(controlnets)

    monkeypatch.setattr(cli, "build", record)
    options = ["--controlnet", "a=first", "--controlnet", "b=x=y"]
    assert cli.main(["checkpoint", "--name", "x", "--repository", "y", *options]) == 0
    assert calls == [{"a": Path("first"), "b": Path("x=y")}]


def test_quantisation_reaches_the_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    targets: list[TargetOptions] = []
    monkeypatch.setattr(cli, "build", lambda a, b, c, target, **options: targets.append(target))
    arguments = ["checkpoint", "--name", "x", "--repository", "y", "--target", "tensorrt"]
    arguments += ["--quantize", "fp8", "--calibration", str(tmp_path), "--calibration-side", "256"]
    arguments += ["--quantizer-python", "p/python", "--max-picture-difference", "2.5"]
    assert cli.main(arguments) == 0
    expected = QuantizeOptions(
        "fp8", tmp_path, Path("p/python"), side=256, limits=QualityLimits(picture_difference=2.5)
    )
    assert [target.quantize for target in targets] == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quantize", "int8"], "--calibration DIR is needed"),
        (["--calibration", "d"], "only with --quantize"),
        (["--quantize", "int8", "--calibration", "d", "--max-latent-error", "0"], "more than 0"),
        (["--quantize", "int8", "--calibration", "d", "--precision", "bf16"], "allowed: fp32"),
        (["--quantize", "int8", "--calibration", "d", "--target", "torch"], "onnx, tensorrt"),
    ],
)
def test_quantisation_that_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(cli, "build", lambda *_, **__: pytest.fail("it was built"))
    assert cli.main(["checkpoint", "--name", "x", "--repository", "y", *options]) == 2
    assert message in caplog.text


@pytest.mark.parametrize("value", ["name", "=path", "name="])
def test_a_controlnet_without_a_name_or_path_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["checkpoint", "--name", "x", "--repository", "y", "--controlnet", value])
    assert stopped.value.code == 2
    assert "NAME=PATH is expected" in capsys.readouterr().err


def test_a_name_that_comes_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cli, "build", lambda *_, **__: pytest.fail("it was built"))
    options = ["--controlnet", "a=first", "--controlnet", "a=second"]
    assert cli.main(["checkpoint", "--name", "x", "--repository", "y", *options]) == 2
    assert "comes twice" in caplog.text


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0, 1.0)),
        ("dir/a.safetensors:0.8", ("dir/a.safetensors", 0.8, 0.8)),
        ("a.safetensors:0.8:0.5", ("a.safetensors", 0.8, 0.5)),
        ("a.safetensors:-1", ("a.safetensors", -1.0, -1.0)),
        ("a.safetensors:0:-.5", ("a.safetensors", 0.0, -0.5)),
        ("c:/a.safetensors", ("c:/a.safetensors", 1.0, 1.0)),
        ("c:/a.safetensors:1:0", ("c:/a.safetensors", 1.0, 0.0)),
        ("a:b.safetensors:2", ("a:b.safetensors", 2.0, 2.0)),
        ("a:1:2:3", ("a:1", 2.0, 3.0)),
        ("a:0.8:none", ("a:0.8:none", 1.0, 1.0)),
        ("a:", ("a:", 1.0, 1.0)),
        ("0.5", ("0.5", 1.0, 1.0)),
        (":0.5", (":0.5", 1.0, 1.0)),
    ],
)
def test_options_reach_the_build(
    monkeypatch: pytest.MonkeyPatch, argument: str, expected: tuple[str, float, float]
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(cli, "build", lambda *args, **options: given.update(options))
    arguments = ["m.safetensors", "--name", "x", "--repository", "r", "--lora", argument]
    arguments += ["--lora", "b", "--embedding", "cat=c.safetensors", "--prediction", "v_prediction"]
    arguments += ["--clip-skip", "2"]
    assert cli.main(arguments) == 0
    assert given == {
        "controlnets": {},
        "prediction": "v_prediction",
        "loras": [(Path(expected[0]), *expected[1:]), (Path("b"), 1.0, 1.0)],
        "embeddings": {"cat": Path("c.safetensors")},
        "clip_skip": 2,
    }


@pytest.mark.parametrize(
    ("exists", "argument", "expected"),
    [
        ("a:0.5", "a:0.5", ("a:0.5", 1.0, 1.0)),
        ("a:0.5", "a:0.5:0.8", ("a:0.5", 0.8, 0.8)),
        ("a:0.5:1", "a:0.5:1", ("a:0.5:1", 1.0, 1.0)),
        ("a", "a:0.5:1", ("a", 0.5, 1.0)),
    ],
)
def test_the_longest_existing_file_of_a_lora_is_meant(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    exists: str,
    argument: str,
    expected: tuple[str, float, float],
) -> None:
    (tmp_path / exists).touch()
    given: dict[str, object] = {}
    monkeypatch.setattr(cli, "build", lambda *args, **options: given.update(options))
    arguments = ["m", "--name", "x", "--repository", "r", "--lora", str(tmp_path / argument)]
    assert cli.main(arguments) == 0
    assert given["loras"] == [(tmp_path / expected[0], *expected[1:])]
