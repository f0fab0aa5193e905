"""Networks in onnxruntime: settings, rows and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runners.onnx_session import SessionSettings, open_session
from tests.serving import toys


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
