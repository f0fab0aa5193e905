"""perf_analyzer: its input file, the search for the binary, its CSV, and a real run."""

from __future__ import annotations

import base64
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.perf import binary, inputs, profiles, tables
from benchmarks.perf.__main__ import BINARY_FOLDER, main, network_models
from benchmarks.perf.binary import PerfAnalyzer
from benchmarks.perf.errors import PerfError
from benchmarks.perf.results import CSV_NAME, Result, read_result
from segs_client.contract import MODEL_NAME, parse_request
from segs_client.messages import BuiltRequest
from segs_client.transport import infer_arguments
from serving.server import EmbeddedServer

INPUTS = ("request", "image", "masks", "seg_images", "control_images")
HEADER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,"
    "Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,"
    "p50 latency,p90 latency,p95 latency,p99 latency,Avg latency,request/response,response wait\n"
)
MODEL_HEADER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,"
    "Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv\n"
)


def tensor_bytes(tensor: dict[str, Any]) -> bytes:
    """What perf_analyzer sends for one input of an entry."""
    if "content" in tensor:
        assert tensor["content"] == []
        return b""
    assert tensor["b64"], "perf_analyzer crashes on base64 of nothing"
    return base64.b64decode(tensor["b64"], validate=True)


def scene() -> list[BuiltRequest]:
    return inputs.scene_requests("tiny", inputs.SMALL_OPTIONS)


def test_every_entry_has_every_input_in_its_shape() -> None:
    entries = json.loads(json.dumps(inputs.document(scene())))["data"]
    assert len(entries) == 7
    for entry in entries:
        assert tuple(entry) == INPUTS
        assert entry["request"]["shape"] == [1]
        for name in INPUTS[1:]:
            assert entry[name]["shape"] == [len(tensor_bytes(entry[name]))]
    with_masks = [entry for entry in entries if tensor_bytes(entry["masks"])]
    assert 0 < len(with_masks) < len(entries)


def test_request_is_framed_by_its_length() -> None:
    for entry in inputs.document(scene())["data"]:
        framed = tensor_bytes(entry["request"])
        (length,) = struct.unpack("<I", framed[:4])
        assert length == len(framed) - 4
        assert parse_request(framed[4:]).pipeline == "tiny"


def test_requests_differ() -> None:
    requests = [built.request for built in scene()]
    assert len({request.seed for request in requests}) == 7
    assert len({request.prompt for request in requests}) == 7
    assert {len(request.segs.items) for request in requests} == {1, 2, 3}


def test_options_hold_for_all_requests() -> None:
    requests = inputs.scene_requests("base", {"seed": 3, "steps": 9, "prompt": "a hat"})
    assert {(r.request.seed, r.request.steps, r.request.prompt) for r in requests} == {
        (3, 9, "a hat")
    }


def test_bytes_are_those_that_the_client_sends() -> None:
    for built in scene():
        entry = inputs.entry(built)
        sent = infer_arguments(built, "id", 1.0)["inputs"]
        assert {tensor.name() for tensor in sent} >= {"request", "image"}
        for tensor in sent:
            assert tensor._get_content() == tensor_bytes(entry[tensor.name()])
            assert list(tensor.shape()) == entry[tensor.name()]["shape"]


def test_own_pictures(tmp_path: Path) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    made = inputs.picture_requests(
        [(picture, [(8, 8, 40, 40)]), (picture, [(0, 0, 9, 9), (50, 8, 80, 40)])],
        "base",
        {"steps": 4},
    )
    assert [len(built.request.segs.items) for built in made] == [1, 2]
    assert [built.request.seed for built in made] == [0, 1]


def test_command_line_writes_the_input_file(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    arguments = ["--inputs-only", "--output", str(tmp_path / "out"), "--pipeline", "base"]
    arguments += ["--picture", str(tmp_path / "photo.png"), "1,2,30,40", "5,5,9,9"]
    assert main([*arguments, "--option", "steps=3"]) == 0
    (entry,) = json.loads((tmp_path / "out" / "input.json").read_text())["data"]
    request = parse_request(tensor_bytes(entry["request"])[4:])
    assert (request.pipeline, request.steps, request.guide_size) == ("base", 3, 512)
    assert [item.bbox for item in request.segs.items] == [(1, 2, 30, 40), (5, 5, 9, 9)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "host:8001"], "--pipeline"),
        (["--pipeline", "base"], "--url"),
        (["--picture", "nowhere.png", "1,2,3,4"], "nowhere.png"),
        (["--picture", "photo.png"], "at least one box"),
        (["--option", "setps=3"], "setps"),
        (["--option", "steps"], "name=value"),
    ],
)
def test_wrong_usage_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# --- the binary


def script(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_given_binary_must_exist(tmp_path: Path) -> None:
    with pytest.raises(PerfError, match=r"--perf-analyzer .*nowhere: no such file"):
        binary.find(tmp_path / "nowhere", tmp_path)


def test_given_then_path_then_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fetched"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert binary.find(None, folder) is None
    fetched = script(folder / "perf_analyzer")
    assert binary.find(None, folder) == PerfAnalyzer(fetched, folder)
    on_path = script(tmp_path / "bin" / "perf_analyzer")
    assert binary.find(None, folder) == PerfAnalyzer(on_path)
    given = script(tmp_path / "own")
    assert binary.find(given, folder) == PerfAnalyzer(given)


def test_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"libb64.so.0d", "libstrange.so.1"}
    monkeypatch.setattr(binary, "missing_libraries", lambda file, environment: missing)
    with pytest.raises(PerfError, match=r"libb64.so.0d: apt-get install libb64-0d; libstrange"):
        binary.find(script(tmp_path / "own"), tmp_path)


def test_own_libraries_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/theirs")
    made = PerfAnalyzer(Path("/own/perf_analyzer"), Path("/own")).environment()
    assert made["LD_LIBRARY_PATH"] == "/own:/theirs"
    assert PerfAnalyzer(Path("x")).environment()["LD_LIBRARY_PATH"] == "/theirs"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert "LD_LIBRARY_PATH" not in PerfAnalyzer(Path("x")).environment()


def wheels(names: dict[str, str]) -> Callable[[str, Path], None]:
    """In place of pip: wheels of one file each."""

    def download(requirement: str, folder: Path) -> None:
        package, _, version = requirement.partition("==")
        wheel = folder / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(names[package], b"#!/bin/sh\n")

    return download


FILES = {
    "tritonclient": "tritonclient-2.48.0.data/data/bin/perf_analyzer",
    "nvidia-cuda-runtime-cu12": "nvidia/cuda_runtime/lib/libcudart.so.12",
}


def test_fetching_takes_one_file_of_each_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(binary, "_download", wheels(FILES))
    found = binary.find_or_fetch(None, tmp_path / "perf")
    assert found.path.stat().st_mode & stat.S_IXUSR
    names = {path.name for path in (tmp_path / "perf").iterdir()}
    assert names == {"perf_analyzer", "libcudart.so.12"}


def test_wheel_without_the_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_download", wheels({**FILES, "tritonclient": "README"}))
    with pytest.raises(PerfError, match=r"has no .*perf_analyzer; .*--perf-analyzer PATH"):
        binary.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- profiles and results


def test_a_percentile_asked_for_takes_the_place_of_the_mean(tmp_path: Path) -> None:
    (tmp_path / CSV_NAME).write_text(
        "Concurrency,Inferences/Second,p50 latency,p90 latency,p93 latency,p95 latency,p99 latency"
        "\n2,5.0,100,150,200,300,400\n"
    )
    result = read_result(tmp_path)
    assert result.mean_s is None
    outcome = profiles.Outcome(profiles.unary("m", 2), result)
    assert "| 5.00 |  | 0 |" in tables.client_table([outcome])


def write_csvs(folder: Path) -> None:
    numbers = "2,5.0,113,202241,3,352,28005,1500,7,150000,325215,325215,346117,200000,120,199880"
    (folder / CSV_NAME).write_text(f"{HEADER}{numbers}\n")
    (folder / f"tiny_unet_v1.{CSV_NAME}").write_text(
        f"{MODEL_HEADER}2,60.0,0,15,2000,100,7800,100,0\n"
    )


def test_csv_files_become_a_result(tmp_path: Path) -> None:
    write_csvs(tmp_path)
    result = read_result(tmp_path)
    assert result.requests_per_s == 5.0
    assert result.mean_s == pytest.approx(0.2)
    assert result.percentiles_s[99] == pytest.approx(0.346117)
    unet = result.models["tiny_unet"]
    assert (unet.per_request, unet.queue_s, unet.compute_s) == (12.0, 0.002, 0.008)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "0 rows"),
        (HEADER + "a,b\n", "not a table of numbers"),
        ("Concurrency,Inferences/Second\n1,2\n", "no column 'p50 latency'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / CSV_NAME).write_text(text)
    with pytest.raises(PerfError, match=message):
        read_result(tmp_path)


TARGET = profiles.Target(url="host:8001", inputs=Path("input.json"))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (profiles.unary(MODEL_NAME, 4), "--concurrency-range 4"),
        (profiles.poisson(MODEL_NAME, 2.5), "--request-intervals intervals.txt --async"),
        (profiles.streaming("other", 2), "-m other * --streaming --concurrency-range 2"),
    ],
)
def test_command_lines(profile: profiles.Profile, expected: str) -> None:
    line = " ".join(profiles.command(PerfAnalyzer(Path("perf_analyzer")), TARGET, profile))
    for part in expected.split(" * "):
        assert part in line
    assert "--shared-memory" not in line


def test_poisson_arrivals_have_the_rate_that_was_asked_for() -> None:
    waits_s = np.array(profiles.poisson(MODEL_NAME, 2.5).intervals_us) / 1e6
    assert waits_s.min() >= 0
    assert waits_s.mean() == pytest.approx(1 / 2.5, rel=1e-3)
    assert waits_s.std() == pytest.approx(1 / 2.5, rel=0.1)


def test_tables_show_what_was_not_stable() -> None:
    result = Result(5.0, 0.2, dict.fromkeys((50, 90, 95, 99), 0.25), {})
    shown = tables.client_table(
        [
            profiles.Outcome(profiles.unary("m", 1), result),
            profiles.Outcome(profiles.unary("m", 2), None),
        ]
    )
    assert "| unary, 1 at a time | 5.00 | 200 | 250 | 250 | 250 | 250 |" in shown
    assert "| unary, 2 at a time | not stable |" in shown


def test_unstable_run_has_no_result(tmp_path: Path) -> None:
    fake = script(tmp_path / "fake", "echo 'Failed to obtain stable measurement within 3'; exit 2")
    outcome = profiles.run(PerfAnalyzer(fake), TARGET, profiles.unary("m", 1), tmp_path)
    assert outcome.result is None


def test_failed_run_shows_its_last_lines(tmp_path: Path) -> None:
    fake = script(tmp_path / "fake", "echo 'no such model' >&2; exit 1")
    with pytest.raises(PerfError, match="no such model"):
        profiles.run(PerfAnalyzer(fake), TARGET, profiles.unary("m", 1), tmp_path)


def test_hanging_run_is_ended(tmp_path: Path) -> None:
    fake = script(tmp_path / "fake", "echo measuring; exec sleep 60")
    target = replace(TARGET, limit_s=0.3)
    with pytest.raises(PerfError, match=r"was killed \(it has 0.3 s\)[\s\S]*measuring"):
        profiles.run(PerfAnalyzer(fake), target, profiles.unary("m", 1), tmp_path)


@pytest.fixture(scope="session")
def perf_analyzer() -> PerfAnalyzer:
    try:
        found = binary.find(None, BINARY_FOLDER)
    except PerfError as error:
        pytest.skip(str(error))
    if found is None:
        pytest.skip("perf_analyzer is not here; python -m benchmarks.perf fetches it")
    return found


@pytest.mark.server
@pytest.mark.parametrize(
    "profile", [profiles.unary(MODEL_NAME, 2), profiles.streaming(MODEL_NAME, 2)]
)
def test_real_run(
    perf_analyzer: PerfAnalyzer,
    server: EmbeddedServer,
    tmp_path: Path,
    profile: profiles.Profile,
) -> None:
    file = tmp_path / "input.json"
    options = {**inputs.SMALL_OPTIONS, "steps": 2}
    file.write_text(json.dumps(inputs.document(inputs.scene_requests("sd15", options))))
    target = profiles.Target(
        url=server.grpc_url,
        inputs=file,
        networks=network_models(server.grpc_url, "sd15"),
        requests=4,
        stability_percent=10_000,
    )
    shown: list[str] = []
    outcome = profiles.run(perf_analyzer, target, profile, tmp_path, shown.append)
    assert len(shown) == 3
    assert outcome.result is not None
    assert outcome.result.requests_per_s > 0
    assert outcome.result.percentiles_s[50] > 0
    assert outcome.result.models["sd15_unet"].per_request > 0
