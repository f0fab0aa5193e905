"""What is said before a server starts: libraries, repositories, log lines, tensors."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runners.onnx_session import SessionSettings, open_session
from runners.tensor_rules import InputRules, TensorError
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


_CONFIG = {
    "max_batch_size": 2,
    "input": [
        {"name": "sample", "data_type": "TYPE_FP32", "dims": ["4", "-1"]},
        {"name": "step", "data_type": "TYPE_INT64", "dims": []},
    ],
}


def test_tensor_rules() -> None:
    rules = InputRules.from_config(_CONFIG)
    step = np.zeros(2, np.int64)
    rules.check({"sample": np.zeros((2, 4, 7), np.float32), "step": step})
    for sample in (
        np.zeros((2, 4, 0), np.float32),
        np.zeros((2, 3, 7), np.float32),
        np.zeros((2, 4, 7), np.float64),
        np.zeros((1, 4, 7), np.float32),
        np.zeros((4, 7), np.float32),
    ):
        with pytest.raises(TensorError):
            rules.check({"sample": sample, "step": step})
    with pytest.raises(TensorError, match="required"):
        rules.check({"step": step})


def test_session_settings_follow_the_native_names() -> None:
    config = {
        "parameters": {"intra_op_thread_count": {"string_value": "3"}},
        "optimization": {"graph": {"level": 1}},
    }
    assert SessionSettings.from_config(config) == SessionSettings(threads=3, by_row=False, level=1)
    batched = SessionSettings.from_config({"max_batch_size": 16})
    assert batched == SessionSettings(threads=0, by_row=True)


def test_session_runs_by_name(tmp_path: Path) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads=1)
    answer = session.run({"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(answer["y"], np.full((2, 3), 2, np.float32))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_rows_keep_their_order_on_any_number_of_threads(
    tmp_path: Path, rows: int, threads: int
) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads)
    x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)


def test_a_network_without_batches_is_run_whole(tmp_path: Path) -> None:
    """Its first axis may be anything; here rows of a sum over all rows."""
    toys.write_total(tmp_path / "model.onnx")
    settings = SessionSettings(threads=2, by_row=False)
    session = open_session(tmp_path / "model.onnx", settings=settings)
    answer = session.run({"x": np.ones((4, 3), np.float32)})
    np.testing.assert_array_equal(answer["y"], np.full((1, 3), 4, np.float32))


@pytest.mark.parametrize("rows", [1, 4])
def test_a_refused_input_raises_and_the_session_goes_on(tmp_path: Path, rows: int) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads=2)
    with pytest.raises(Exception, match=r"[Ii]nvalid|INVALID"):
        session.run({"x": np.ones((rows, 3, 3), np.float32)})
    assert session.run({"x": np.ones((rows, 3), np.float32)})["y"].shape == (rows, 3)


def test_calls_from_several_threads_do_not_mix(tmp_path: Path) -> None:
    toys.write_double(tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", threads=2)

    def doubled(value: int) -> bool:
        answer = session.run({"x": np.full((5, 300), value, np.float32)})["y"]
        return bool((answer == 2 * value).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(doubled, range(200)))
