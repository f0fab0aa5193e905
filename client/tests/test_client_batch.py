"""``segs-detail batch`` against a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, inputs_of, serving
from PIL import Image, ImageFile
from test_client_cli import PIXELS, invert

from segs_client import cli
from segs_client.batch.journal import FILE_NAME, Entry
from segs_client.contract import ErrorDetail, parse_request

NAMES = ("a.png", "b.png", "deep/c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, the second one of another brightness."""
    for index, name in enumerate(NAMES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(PIXELS.astype(int) + index, 0, 255).astype(np.uint8)).save(path)
    return tmp_path / "in"


@pytest.fixture
def fake() -> FakeTriton:
    return FakeTriton(invert)


@pytest.fixture
def url(fake: FakeTriton) -> Iterator[str]:
    with serving(fake) as address:
        yield address


def run(folder: Path, url: str, *words: str) -> int:
    box = () if folder.is_file() else ("--box", "4,4,20,20")
    out = folder.parent / "out"
    command = ["batch", str(folder), "-o", str(out), "--pipeline", "base", "--url", url, *box]
    return cli.main([*command, "--retries", "0", *words])


def entries(folder: Path) -> list[Entry]:
    lines = (folder.parent / "out" / FILE_NAME).read_text().splitlines()
    return [Entry.model_validate_json(line) for line in lines]


def test_a_folder_and_again(
    folder: Path, fake: FakeTriton, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, url, "--jobs", "2") == 0
    out = folder.parent / "out"
    for name in NAMES:
        np.testing.assert_array_equal(np.asarray(Image.open(out / name)), 255 - PIXELS)
    written = entries(folder)
    assert sorted(each.name for each in written) == sorted(NAMES)
    assert {(each.status, each.url) for each in written} == {("done", url)}
    assert all(each.ended_at.endswith("+00:00") and each.seconds > 0 for each in written)
    assert capsys.readouterr().out == "3 pictures: 3 done\n"

    assert run(folder, url) == 0
    assert len(fake.requests) == 3  # nothing was asked again
    assert capsys.readouterr().out == "3 pictures: 0 done, 3 there already\n"
    assert not list(out.rglob("*.part*"))


HEIF = b"\0\0\0\x18ftypheic" + bytes(12)


def test_a_heic_that_cannot_be_read_is_a_failure_that_says_so(
    folder: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (folder / "IMG_1.HEIC").write_bytes(HEIF)
    assert run(folder, url) == 3
    printed = capsys.readouterr()
    assert printed.out == "4 pictures: 3 done, 1 failed\n"
    assert (
        "IMG_1.HEIC: image: a HEIC file; allowed: PNG, JPEG or WebP, or HEIC where" in printed.err
    )


def test_a_heic_is_read_by_its_plugin_and_written_as_png(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plugin(ImageFile.ImageFile):
        """Stands in for pillow-heif: its file ends with a picture of Pillow's size and mode."""

        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (PIXELS.shape[1], PIXELS.shape[0]), "RGB"
            self.tile = [("raw", (0, 0, *self.size), len(HEIF), "RGB")]

    def register() -> None:
        Image.register_open("HEIF", Plugin, lambda prefix: prefix[4:12] == b"ftypheic")

    for table in ("ID", "OPEN"):
        monkeypatch.setattr(Image, table, type(getattr(Image, table))(getattr(Image, table)))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    (folder / "IMG_1.HEIC").write_bytes(HEIF + PIXELS.tobytes())
    assert run(folder, url) == 0
    result = Image.open(folder.parent / "out" / "IMG_1.png")
    np.testing.assert_array_equal(np.asarray(result), 255 - PIXELS)


def test_what_has_changed_is_made_anew(
    folder: Path, fake: FakeTriton, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, url)
    Image.fromarray(PIXELS[:, ::-1]).save(folder / "b.png")
    (folder.parent / "out" / "a.png").unlink()
    assert run(folder, url) == 0
    assert len(fake.requests) == 5
    assert run(folder, url, "--steps", "7") == 0
    assert len(fake.requests) == 8
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "3 pictures: 2 done, 1 of them anew, as they had changed, 1 there already"
    assert said[2] == "3 pictures: 3 done, 3 of them anew, as they had changed"


def test_failures_are_told_and_tried_again(
    folder: Path, fake: FakeTriton, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_bytes(b"no picture")

    def fail_one(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        if len(fake.requests) == 2:
            detail = ErrorDetail(code="INTERNAL", message="incident 12", request_id=request.id)
            context.abort(grpc.StatusCode.INTERNAL, detail.to_status_message())
        if len(fake.requests) == 3:
            answer = invert(request, context)
            report = json.loads(answer["report"])
            error = {"code": "INTERNAL", "message": "m", "incident": "12"}
            report["segs"][0].update(status="failed", error=error)
            return {**answer, "report": json.dumps(report).encode()}
        return invert(request, context)

    fake.handler = fail_one
    assert run(folder, url, "--jobs", "1") == 3
    told = capsys.readouterr()
    assert told.out == "4 pictures: 1 done, 1 with SEGs that failed, 2 failed\n"
    failed = {each.name: each for each in entries(folder) if each.status == "failed"}
    assert set(failed) == {"b.png", "bad.png"}
    line = f"segs-detail: b.png: incident 12 (request {failed['b.png'].request_id})"
    assert line in told.err.splitlines()
    assert "segs-detail: deep/c.png: 1 of 1 SEGs failed" in told.err
    assert (folder.parent / "out" / "deep" / "c.png").exists()

    fake.handler = invert
    (folder / "bad.png").unlink()
    assert run(folder, url) == 0
    assert capsys.readouterr().out == "3 pictures: 2 done, 1 there already\n"


def test_a_server_in_trouble_leaves_the_rest(
    folder: Path, fake: FakeTriton, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def once(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        if len(fake.requests) > 1:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return invert(request, context)

    fake.handler = once
    assert run(folder, url, "--jobs", "1") == 1
    told = capsys.readouterr()
    assert told.out == "3 pictures: 1 done, 2 left for the next run\n"
    assert "gone (request" in told.err
    fake.handler = invert
    assert run(folder, url) == 0
    assert len(fake.requests) == 4


def test_a_picture_that_the_server_is_lost_with_fails_alone(
    folder: Path, fake: FakeTriton, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def second(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        if len(fake.requests) == 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "a part of the server died meanwhile")
        return invert(request, context)

    fake.handler = second
    assert run(folder, url, "--jobs", "1") == 3
    told = capsys.readouterr()
    assert told.out == "3 pictures: 2 done, 1 failed\n"
    assert "b.png: may have brought the server down each time" in told.err


def test_lines(folder: Path, fake: FakeTriton, url: str) -> None:
    mask = np.zeros(PIXELS.shape[:2], np.uint8)
    mask[10:30, 10:30] = 255
    Image.fromarray(mask).save(folder.parent / "mask.png")
    lines = folder.parent / "lines.jsonl"
    first = {
        "image": "in/a.png",
        "boxes": [[4.5, 4, 20.25, 20]],
        "options": {"prompt": "his", "seed": 3},
    }
    second = {"image": "in/deep/c.png", "masks": ["mask.png"], "output": "other/place.jpg"}
    lines.write_text(f"{json.dumps(first)}\n\n{json.dumps(second)}\n")
    assert run(lines, url, "--prompt", "hers", "--steps", "5", "--jobs", "1") == 0
    asked = [parse_request(inputs_of(request)["request"]) for request in fake.requests]
    assert [(each.prompt, each.seed, each.steps) for each in asked] == [
        ("his", 3, 5),
        ("hers", 0, 5),
    ]
    assert [item.bbox for item in asked[0].segs.items] == [(4.5, 4, 20.25, 20)]
    assert [item.bbox for item in asked[1].segs.items] == [(10, 10, 30, 30)]
    assert (folder.parent / "out" / "a.png").exists()
    assert Image.open(folder.parent / "out" / "other" / "place.jpg").format == "JPEG"


def test_controlnets_pictures_lie_beside_the_lines(
    folder: Path, fake: FakeTriton, url: str
) -> None:
    edges = folder.parent / "edges.png"
    lines = folder.parent / "lines.jsonl"
    options = {"controlnets": [{"name": "edges", "image": "edges.png"}, {"name": "edges"}]}
    line = {"image": "in/a.png", "boxes": [[4, 4, 20, 20]], "options": options}
    lines.write_text(json.dumps(line))
    for value in (7, 7, 200):
        Image.new("RGB", (3, 2), (value, 0, 0)).save(edges)
        assert run(lines, url) == 0
    assert len(fake.requests) == 2  # a picture like the last one is none
    for request, value in zip(fake.requests, (7, 200), strict=True):
        sent = np.frombuffer(inputs_of(request)["control_images"], np.uint8)
        assert np.array_equal(sent.reshape(2, 3, 3)[..., 0], np.full((2, 3), value))


def test_masks_without_segments_are_counted(
    folder: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = folder.parent / "masks"
    for name in NAMES:
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", PIXELS.shape[1::-1], 255 if name == "a.png" else 0).save(masks / name)
    words = ["batch", str(folder), "-o", str(folder.parent / "out"), "--pipeline", "base"]
    assert cli.main([*words, "--url", url, "--masks", str(masks)]) == 0
    assert capsys.readouterr().out == "3 pictures: 3 done, 2 without a segment, as they came\n"


def test_masks_by_their_names(folder: Path, fake: FakeTriton, url: str) -> None:
    masks = folder / "masks"
    for name in NAMES:
        mask = np.zeros(PIXELS.shape[:2], np.uint8)
        mask[8:24, 16:40] = 255
        path = (masks / name).with_suffix(".webp")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path, lossless=True)
    words = ["batch", str(folder), "-o", str(folder / "out"), "--pipeline", "base", "--url", url]
    assert cli.main([*words, "--masks", str(masks), "--suffix", ".jpg"]) == 0
    assert len(fake.requests) == 3  # neither masks nor results are pictures of the batch
    assert cli.main([*words, "--masks", str(masks), "--suffix", ".jpg"]) == 0
    assert len(fake.requests) == 3
    for request in fake.requests:
        (item,) = parse_request(inputs_of(request)["request"]).segs.items
        assert item.bbox == (16, 8, 40, 24)
    assert (folder / "out" / "deep" / "c.jpg").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no pictures"),
        ('{"image": "a.png"}', "nothing to redraw"),
        ('{"image": "a.png", "boxes": [[1, 2, 3]]}', "line 1: boxes.0.3: Field required"),
        ('\n{"image": "a.png", "mask": "m.png"}', "line 2: mask: Extra inputs are not permitted"),
        ('{"image": "a.png", "boxes": [[1,2,3,4]], "output": "../b.png"}', "is not a path inside"),
        ('{"image": "a.png", "boxes": [[1,2,3,4]], "output": "b.xyz"}', "no picture format"),
        ('{"image": "a.png", "boxes": [[1,2,3,4]]}\n' * 2, "the result of 2 pictures"),
        (
            '{"image": "a.png", "boxes": [[1,2,3,4]], "options": {"request_id": "a"}}',
            "line 1: request_id: unknown option",
        ),
        (
            '{"image": "a.png", "boxes": [[1,2,3,4]], "options": {"output": {"image": "none"}}}',
            "line 1: output.image=none leaves nothing to write",
        ),
    ],
)
def test_wrong_lines_exit_with_2_before_anything_is_asked(
    tmp_path: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(text)
    assert run(path, "127.0.0.1:1") == 2
    assert words in capsys.readouterr().err


def test_a_wrong_option_fails_each_picture(
    folder: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, url, "--steps", "0") == 3
    assert "a.png: steps: too small" in capsys.readouterr().err


def test_a_torn_journal_is_read(folder: Path, fake: FakeTriton, url: str) -> None:
    run(folder, url, "--jobs", "1")
    journal = folder.parent / "out" / FILE_NAME
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*lines[:2], lines[2][:40]]))
    assert run(folder, url) == 0
    assert len(fake.requests) == 4
    assert run(folder, url) == 0
    assert len(fake.requests) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_loses_nothing(folder: Path, fake: FakeTriton, url: str, number: int) -> None:
    last = threading.Event()

    def slow(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        if len(fake.requests) == 3:
            context.add_callback(last.set)
            last.wait(20)
        return invert(request, context)

    fake.handler = slow
    out = folder.parent / "out"
    command = [sys.executable, "-m", "segs_client.cli", "batch", str(folder), "-o", str(out)]
    command += ["--pipeline", "base", "--url", url, "--box", "4,4,20,20", "--jobs", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        end = time.monotonic() + 60
        while len(fake.requests) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "3 pictures: 2 done, 1 left for the next run; interrupted\n"
    assert last.is_set()  # the server was told
    fake.handler = invert
    assert run(folder, url) == 0
    assert len(fake.requests) == 4
