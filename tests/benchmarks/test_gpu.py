"""The GPU benchmark on a CPU: what it does with its time, its rows and what is missing; and its
parts, with tiny networks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from benchmarks.gpu import plans, server
from benchmarks.gpu.__main__ import PAGE, main
from benchmarks.gpu.budget import Budget
from benchmarks.gpu.cases import Case, NotRun, Options, Row
from benchmarks.gpu.networks import MODES
from benchmarks.gpu.page import page
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.plans import Tools
from benchmarks.gpu.results import About, PartRows
from benchmarks.random_networks import Chain, configs, row_flops
from build_engines import BuildError
from build_engines.verify import InputArrays, OutputArrays
from networks import ControlNet, Unet
from runners.torch_session import TorchSettings
from serving.errors import InstallationError

TINY = ("--sizes", "tiny", "--precision", "fp32", "--rate-side", "64", "--seconds", "0.001")
ABOUT = About("H200", "580", "today", "fp16", "python -m benchmarks.gpu")


class Scripted:
    """A part whose rows are what functions return."""

    weight, about = 1.0, "Scripted."

    def __init__(self, least_s: float = 0.0, **scripts: Callable[[float], Row]) -> None:
        self.is_over = False
        self._cases = [Case({"case": name}, run, least_s) for name, run in scripts.items()]

    def cases(self, options: Options, stack: ExitStack) -> list[Case]:
        stack.callback(setattr, self, "is_over", True)
        return self._cases


Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with some parts in place of its own."""

    def run(*arguments: str, **parts: Part | Scripted) -> int:
        for name, part in parts.items():
            monkeypatch.setitem(PARTS, name, part)
        chosen = ("--parts", ",".join(parts)) if parts else ()
        return main(["--out", str(tmp_path), *TINY, *chosen, *arguments])

    return run


def rows_of(folder: Path, part: str) -> list[Row]:
    rows: list[Row] = json.loads((folder / f"{part}.json").read_text())["rows"]
    return rows


def fails(seconds: float) -> Row:
    raise ValueError("wrong\nin two lines")


def lacks(seconds: float) -> Row:
    raise NotRun("no such thing here")


def never(seconds: float) -> Row:
    raise AssertionError("measured again")


def test_parts_share_the_time_by_weight_and_leave_what_they_do_not_use() -> None:
    now_s = 100.0
    budget = Budget(60.0, {"a": 1, "b": 2, "c": 3}, lambda: now_s)
    budget.begin("a")
    assert budget.left_s == pytest.approx(10)
    now_s += 2  # 58 are left
    budget.begin("b")
    assert budget.left_s == pytest.approx(58 * 2 / 5)
    now_s += 50
    assert budget.left_s < 0
    budget.begin("c")
    assert budget.left_s == pytest.approx(8)


def test_what_does_not_fit_is_listed_and_measured_by_the_next_run(run: Run, tmp_path: Path) -> None:
    part = Scripted(a=lambda seconds: {"ms": 1}, b=lambda seconds: {"ms": 2})
    assert run("--minutes", "0", scripted=part) == 0
    assert [row["not run"] for row in rows_of(tmp_path, "scripted")] == ["out of time"] * 2
    assert "Not run (case a; case b): out of time." in (tmp_path / PAGE).read_text()
    assert run(scripted=part) == 0
    assert [row["ms"] for row in rows_of(tmp_path, "scripted")] == [1, 2]
    assert "Not run" not in (tmp_path / PAGE).read_text()


def test_a_case_that_takes_longer_than_what_is_left_is_not_begun(run: Run, tmp_path: Path) -> None:
    assert run(scripted=Scripted(least_s=3600.0, a=never)) == 0
    assert rows_of(tmp_path, "scripted")[0]["not run"] == "out of time, it takes about 3600 s"


def test_rows_are_not_measured_again_unless_asked_for(run: Run, tmp_path: Path) -> None:
    run(scripted=Scripted(a=lambda seconds: {"ms": 1}))
    assert run(scripted=Scripted(a=never, b=lambda seconds: {"ms": 2})) == 0
    assert [row["ms"] for row in rows_of(tmp_path, "scripted")] == [1, 2]
    assert run("--again", scripted=Scripted(a=lambda seconds: {"ms": 3})) == 0
    assert [row["ms"] for row in rows_of(tmp_path, "scripted")] == [3]


def test_every_row_is_on_disk_before_the_next_one_begins(run: Run, tmp_path: Path) -> None:
    def ended(seconds: float) -> Row:
        assert rows_of(tmp_path, "scripted") == [{"case": "a", "ms": 1}]
        raise KeyboardInterrupt

    part = Scripted(a=lambda seconds: {"ms": 1}, b=ended)
    with pytest.raises(KeyboardInterrupt):
        run(scripted=part)
    assert "| a | 1 |" in (tmp_path / PAGE).read_text()
    assert part.is_over  # what it has opened is closed


def test_a_row_that_fails_or_lacks_something_does_not_stop_the_rest(
    run: Run, tmp_path: Path
) -> None:
    part = Scripted(a=fails, b=lacks, c=lambda seconds: {"ms": 3})
    assert run(scripted=part, other=Scripted(d=lambda seconds: {"ms": 4})) == 1
    assert rows_of(tmp_path, "scripted") == [
        {"case": "a", "not run": "failed: ValueError: wrong in two lines"},
        {"case": "b", "not run": "no such thing here"},
        {"case": "c", "ms": 3},
    ]
    assert rows_of(tmp_path, "other") == [{"case": "d", "ms": 4}]


def test_a_part_without_its_packages_says_so(run: Run, tmp_path: Path) -> None:
    assert run(missing=Part("no_such_package.module:cases", 1, "Missing.")) == 0
    reason = "a package is missing: No module named 'no_such_package'"
    assert rows_of(tmp_path, "missing") == [{"not run": reason}]
    assert f"Not run: {reason}." in (tmp_path / PAGE).read_text()
    assert run(missing=Scripted(a=lambda seconds: {"ms": 1})) == 0  # it was installed meanwhile
    assert rows_of(tmp_path, "missing") == [{"case": "a", "ms": 1}]


def test_the_rest_is_measured_where_a_part_cannot_begin(run: Run, tmp_path: Path) -> None:
    broken = Part("json:loads", 1, "Takes other arguments.")
    assert run(broken=broken, other=Scripted(a=lambda seconds: {"ms": 1})) == 1
    assert rows_of(tmp_path, "broken")[0]["not run"].startswith("failed: TypeError")
    assert rows_of(tmp_path, "other") == [{"case": "a", "ms": 1}]


def test_rows_of_another_precision_are_not_mixed_in(run: Run) -> None:
    run(scripted=Scripted(a=lambda seconds: {"ms": 1}))
    with pytest.raises(SystemExit):
        run("--precision", "fp16", scripted=Scripted(a=lambda seconds: {"ms": 1}))
    assert run("--precision", "fp16", "--again", scripted=Scripted(a=lambda s: {"ms": 1})) == 0


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--parts", "rate,speed"])


def test_a_run_that_hangs_ends_itself() -> None:
    program = (
        "import threading\n"
        "from benchmarks.gpu.__main__ import ended_after\n"
        "with ended_after(0.1):\n"
        "    threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"Timeout" in done.stderr


def test_the_page_says_where_and_what_share_is_reached() -> None:
    rows: dict[str, list[Row]] = {
        "rate": [{"precision": "fp16", "TFLOP/s": 100}, {"precision": "bf16", "TFLOP/s": 80}],
        "server": [
            {"callers": 1, "SEGs/s": 2, "TFLOP/s": 6},
            {"callers": 8, "SEGs/s": 6, "TFLOP/s": 20},
        ],
        "engine": [
            {"mode": "graphs", "callers": 8, "SEGs/s": 8, "TFLOP/s": 30},
            {"mode": "eager", "callers": 8, "SEGs/s": 2, "TFLOP/s": 8},
        ],
        "unet": [
            {"networks": "sd15", "ControlNet": "without", "rows": 16, "TFLOP/s": 40},
            {"networks": "sd15", "ControlNet": "without", "rows": 32, "ms": "out of memory"},
            {"networks": "sdxl", "ControlNet": "without", "rows": 16, "TFLOP/s": 60},
        ],
        "vae": [{"precision": "fp32", "TFLOP/s": 9}, {"precision": "bf16", "TFLOP/s": 8}],
    }
    text = page({part: PartRows(ABOUT, 1.0, found) for part, found in rows.items()})
    assert text.count("H200; driver 580; today; fp16.\n\n`python -m benchmarks.gpu`") == 1
    assert "| 8 | 6 | 20 | 20% | 50% | 3.0 | 75% |" in text
    assert "| graphs | 8 | 8 | 30 | 30% | 75% |" in text
    assert "| sd15 | without | 16 | 40 |  | 40% |" in text
    assert "| fp32 | 9 |  |\n| bf16 | 8 | 10% |" in text


def test_the_networks_on_a_cpu(run: Run, tmp_path: Path) -> None:
    assert run("--parts", "rate,unet", "--batches", "1") == 0
    rows = rows_of(tmp_path, "unet")
    assert len(rows) == 2 * len(MODES)  # ControlNet or not
    assert all(row["ms"] > 0 and row["TFLOP/s"] > 0 for row in rows)
    assert "| tiny | with | 64 | 1 | graphs |" in (tmp_path / PAGE).read_text()


def test_without_tritonserver_the_part_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise InstallationError("pip install nvidia-pytriton==0.7.0")

    monkeypatch.setattr(server, "find_installation", missing)
    assert run("--parts", "server") == 0
    reason = rows_of(tmp_path, "server")[0]["not run"]
    assert reason == "no tritonserver here: pip install nvidia-pytriton==0.7.0"


def test_without_tensorrt_the_part_says_so(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(options: Any) -> None:
        raise BuildError("no Python package of TensorRT")

    monkeypatch.setattr(plans, "open_tensorrt", missing)
    monkeypatch.setattr(plans, "_LIBRARIES_FOR_RTX", ("no_such_library",))
    assert run("--parts", "tensorrt") == 0
    assert rows_of(tmp_path, "tensorrt") == [{"not run": "no Python package of TensorRT"}]


def onnxruntime_tools(*_: object) -> Tools:
    """The engine is the graph itself, which onnxruntime runs."""

    def build(network: Unet, graph: Path, plan: Path) -> None:
        shapes = network.profiles(80.0)[0].shapes(network.inputs[0])
        assert shapes[-1] == (2, 4, 8, 8)  # what is measured, and no more
        plan.write_text(graph.name)

    def load(network: Unet, plan: Path) -> Callable[[InputArrays], OutputArrays]:
        session = onnxruntime.InferenceSession(plan.parent / plan.read_text())
        return partial(session.run, [each.name for each in network.outputs])

    return Tools("onnxruntime", build, load)


def test_an_engine_is_built_compared_and_timed_against_torch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_tools", onnxruntime_tools)
    monkeypatch.setattr("benchmarks.gpu.__main__._FOLDER", tmp_path / "made")
    assert run("--parts", "tensorrt", "--batches", "1,2") == 0
    built, one, two = rows_of(tmp_path, "tensorrt")
    assert float(built["difference from torch"]) < 1e-4
    assert (one["rows"], two["rows"]) == (1, 2)
    assert all(row["ms"] > 0 and row["torch eager, ms"] > 0 for row in (one, two))


@pytest.mark.server
def test_a_pipeline_with_random_weights_in_process_and_through_a_server(
    run: Run, tmp_path: Path
) -> None:
    parts = ("--parts", "pipeline,seg,server,engine")
    assert run(*parts, "--steps", "2", "--callers", "1,2", "--minutes", "30") == 0
    (one, two) = rows_of(tmp_path, "server")
    assert (one["callers"], two["callers"]) == (1, 2)
    assert one["rows a batch"] == 2  # with guidance
    assert 2 <= two["rows a batch"] <= 4
    assert {"encode", "denoise", "decode", "rest"} <= set(one) - set(two)
    assert all(row["SEGs/s"] > 0 and row["p50, s"] <= row["p95, s"] for row in (one, two))
    (eager, graphs) = rows_of(tmp_path, "seg")
    shares = [float(graphs[name][:-1]) for name in ("encode", "denoise", "decode", "rest")]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert eager["s"] > 0
    assert len(rows_of(tmp_path, "engine")) == 2 * 2
    assert "of the engine" in (tmp_path / PAGE).read_text()


def test_operations_of_a_unet_as_published() -> None:
    """SD1.5's at 512²: about 0.4 T multiply-adds a row."""
    assert row_flops(Unet(configs("sd15")["unet"]), 64) == pytest.approx(0.8e12, rel=0.02)


def test_a_controlnet_feeds_its_unet() -> None:
    made = configs("tiny")
    networks = [ControlNet("x", made["controlnet"], 0), Unet(made["unet"], controlled=True)]
    chain = Chain.random(networks, torch.device("cpu"), "fp32")
    chain.runner(2, 8, TorchSettings())()
    alone = Chain.random([Unet(made["unet"])], torch.device("cpu"), "fp32")
    assert chain.row_flops(8) > alone.row_flops(8)
