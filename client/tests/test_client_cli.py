"""The command line, run in this process against a server on loopback."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, inputs_of, serving
from PIL import Image

from segs_client import InvalidRequest, Segs, cli, compare_image, crop_region
from segs_client.contract import DetailRequest, ErrorDetail, parse_request
from segs_client.flags import given_options
from segs_client.messages import OPTIONS
from segs_client.pictures import read_pixels

PIXELS = np.random.default_rng(2).integers(0, 256, (48, 64, 3), np.uint8)


def invert(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
    """Answers with the picture's negative."""
    tensors = inputs_of(request)
    asked = parse_request(tensors["request"])
    segs = [
        {"index": index, "status": "enhanced", "bbox": seg.bbox, "label": seg.label,
         "crop_region": seg.crop_region or crop_region(seg.bbox, PIXELS.shape[:2], 1.0),
         "sampled_size": [512, 384], "steps_run": 20, "sample_s": 1.25}
        for index, seg in enumerate(asked.segs.items)
    ]  # fmt: skip
    report = {"pipeline": asked.pipeline, "segs": segs, "times_s": {},
              "image": {"encoding": "raw", "shape": PIXELS.shape}}  # fmt: skip
    return {"report": json.dumps(report).encode(), "detailed_image": (255 - PIXELS).tobytes()}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path)
    return path


def sent(fake: FakeTriton) -> DetailRequest:
    (request,) = fake.requests
    return parse_request(inputs_of(request)["request"])


def test_all_the_way(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photo.parent
    fake = FakeTriton(invert)
    with serving(fake) as url:
        status = cli.main(
            [str(photo), "--box", "4,4,20,24", "--box", "30,8,50,40", "--url", url,
             "--pipeline", "base", "--prompt", "a face", "--steps", "7", "--sampler", "heun",
             "--feather", "3", "--no-force-inpaint", "--paste-feather", "2",
             "--option", "paste.alpha=200", "--option", "scheduler=karras", "--timeout", "9",
             "-o", str(folder / "out.png"), "--compare", str(folder / "both.jpg"),
             "--report", str(folder / "report.json")]
        )  # fmt: skip
    assert status == cli.DONE
    asked = sent(fake)
    assert [item.bbox for item in asked.segs.items] == [(4, 4, 20, 24), (30, 8, 50, 40)]
    assert (asked.pipeline, asked.prompt, asked.steps) == ("base", "a face", 7)
    assert (asked.sampler_name, asked.scheduler, asked.force_inpaint) == ("heun", "karras", False)
    assert (asked.noise_mask_feather, asked.paste.feather, asked.paste.alpha) == (3, 2, 200)
    assert fake.requests[0].parameters["timeout"].int64_param == pytest.approx(9e6, rel=0.05)

    np.testing.assert_array_equal(np.asarray(Image.open(folder / "out.png")), 255 - PIXELS)
    assert Image.open(folder / "both.jpg").width > 2 * 64
    assert json.loads((folder / "report.json").read_text())["segs"][1]["index"] == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["seg", "pass", "status", "box", "crop", "region", "sampled",
                                "steps", "seconds", "label"]  # fmt: skip
    assert lines[1].split() == ["0", "0", "enhanced", "4,4,20,24", "4,4,20,24", "384×512", "20",
                                "1.25"]  # fmt: skip


def test_boxes_with_fractions(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeTriton(invert)
    with serving(fake) as url:
        status = cli.main(
            [str(photo), "--box", "4.125,4,20.5,24.0", "--box=-2.5,3,9,9", "--url", url,
             "--pipeline", "base", "-o", str(photo.parent / "out.png")]
        )  # fmt: skip
    assert status == cli.DONE
    assert [item.bbox for item in sent(fake).segs.items] == [(4.125, 4, 20.5, 24), (-2.5, 3, 9, 9)]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines[1:]] == ["4.12,4,20.5,24.0", "-2.5,3,9,9"]


def test_masks_and_boxes_together(photo: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10:30] = 255
    mask_path = photo.parent / "mask.png"
    Image.fromarray(mask).save(mask_path)
    fake = FakeTriton(invert)
    with serving(fake) as url:
        status = cli.main(
            [str(photo), "--mask", str(mask_path), "--box", "40,5,60,20", "--crop-factor", "1",
             "--url", url, "--pipeline", "base", "-o", str(photo.parent / "out.webp")]
        )  # fmt: skip
    assert status == cli.DONE
    regions = [item.crop_region for item in sent(fake).segs.items]
    assert regions == [(40, 5, 60, 20), (10, 10, 30, 30)]


@pytest.mark.parametrize("side", [0, 9])
def test_masks_without_a_segment_are_told(
    side: int, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:30, 10 : 10 + side] = 255
    Image.fromarray(mask).save(photo.parent / "mask.png")
    fake = FakeTriton(invert)
    with serving(fake) as url:
        assert run(photo, "--mask", str(photo.parent / "mask.png"), "--url", url) == cli.DONE
    assert not sent(fake).segs.items
    assert capsys.readouterr().err == (
        "segs-detail: no mask has a white area of 10 px a side; nothing was redrawn\n"
    )


def test_16_bits_are_scaled(photo: Path) -> None:
    grey = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    Image.fromarray(grey).save(photo)
    mask = np.full((48, 64), 128, np.uint16)  # half a grey level of 8 bits
    mask[10:30, 10:30] = 65535
    Image.fromarray(mask).save(photo.parent / "mask.png")
    fake = FakeTriton(invert)
    with serving(fake) as url:
        words = ["--mask", str(photo.parent / "mask.png"), "--compare", str(photo.parent / "c.png")]
        assert run(photo, *words, "--url", url) == cli.DONE
    assert inputs_of(fake.requests[0])["image"] == photo.read_bytes()
    assert np.array_equal(read_pixels(photo)[..., 0], grey >> 8)
    assert [item.bbox for item in sent(fake).segs.items] == [(10, 10, 30, 30)]


def test_shared_memory_goes_before_progress(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    client = mock.Mock()
    for words, method in (
        ([], client.stream),
        (["--shared-memory"], client.detail),
        (["--shared-memory", "--progress"], client.stream),
    ):
        given = cli._parser().parse_args([str(photo), "-o", "a.png", "--pipeline", "b", *words])
        client.reset_mock()
        with contextlib.suppress(TypeError):  # nothing is yielded
            cli._detailed(client, given, {})
        method.assert_called_once()


def run(photo: Path, *arguments: str) -> int:
    """The command with what it needs beside ``arguments``, which win where they repeat."""
    usual = ["--url", "127.0.0.1:1", "--pipeline", "base", "-o", str(photo.parent / "out.png")]
    return cli.main([str(photo), *usual, *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--box", "1,2,3,4", "--steps", "0"], "steps: too small (got 0); allowed: whole numbers"),
        (["--box", "1,2,3,4", "--option", "stepz=1"], "stepz: unknown option"),
        (["--box", "1,2,3,4", "--option", "image.encoding=raw"], "image: unknown option"),
        (["--box", "1,2,3,4", "--option", "controlnets=true"], "controlnets: "),
        (["--box", "1,2,3,4", "--option", "prompts=5"], "prompts: "),
        (["--box", "1,2,3,4", "--option", "steps"], "--option steps: name=value expected"),
        (
            ["--box", "1,2,3,4", "--option", "steps.x=1", "--steps", "2"],
            "steps has a value already",
        ),
        (["--box", "5,2,3,4"], "segs.items.0.bbox: has no area"),
        (["--box", "1,2,3,4", "-o", "out.xyz"], "out.xyz: no picture format has the suffix '.xyz'"),
        (["--box", "1,2,3,4", "-o", "/nowhere/out.png"], "/nowhere/out.png: the folder does not"),
        (["--box", "1,2,3,4", "--compare", "c"], "no picture format"),
        (
            ["--box", "1,2,3,4", "--report", "/nowhere/r.json"],
            "/nowhere/r.json: the folder does not",
        ),
        (["--box", "1,2,3,4", "--option", "output.image=none"], "leaves nothing to write"),
        (["--mask", "photo.png", "--option", "crop_factor=big"], "crop_factor: not a number"),
        (["--box", "1,2,3,4", "--timeout", "0"], "timeout_s: out of range"),
        (["--mask", "/nowhere/mask.png"], "No such file"),
    ],
)
def test_wrong_input_exits_with_2(
    photo: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(photo) if each == "photo.png" else each for each in arguments]
    assert run(photo, *arguments) == cli.WRONG_INPUT
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (photo.parent / "out.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["--box", "1,2,3"], ["--box", "a,b,c,d"], ["--box", "1,2,3,4", "--steps", "many"]],
)
def test_wrong_usage_exits_with_2(photo: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(photo, *arguments)
    assert caught.value.code == 2


def test_segs_that_failed_exit_with_3(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail_second(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        answer = invert(request, context)
        report = json.loads(answer["report"])
        error = {"code": "INTERNAL", "message": "internal error; incident 12", "incident": "12"}
        report["request_id"] = "r9"
        report["segs"][1].update(status="failed", label="hat", error=error)
        return {**answer, "report": json.dumps(report).encode()}

    with serving(FakeTriton(fail_second)) as url:
        boxes = ["--box", "4,4,20,24", "--box", "30,8,50,40"]
        assert run(photo, *boxes, "--url", url) == cli.PARTLY_DONE
    assert (photo.parent / "out.png").exists()
    told = capsys.readouterr()
    assert told.err == (
        "segs-detail: SEG 1 (hat), pass 0, failed and is as it came: internal error; "
        "incident 12 (request r9)\n"
    )
    assert [line.split()[2] for line in told.out.splitlines()] == ["status", "enhanced", "failed"]


def test_missing_picture_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none.png", "--box", "1,2,3,4") == cli.WRONG_INPUT
    assert "none.png" in capsys.readouterr().err


def test_server_trouble_exits_with_1(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(photo, "--box", "1,2,3,4", "--timeout", "5") == cli.SERVER_TROUBLE
    error = capsys.readouterr().err
    assert "UNAVAILABLE" in error
    assert "may succeed later" in error


def test_refusal_of_the_server_exits_with_2(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        detail = ErrorDetail(code="INVALID_ARGUMENT", message="pipeline: unknown", request_id="r9")
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, detail.to_status_message())
        raise AssertionError

    with serving(FakeTriton(refuse)) as url:
        assert run(photo, "--box", "1,2,3,4", "--url", url) == cli.WRONG_INPUT
    assert capsys.readouterr().err == "segs-detail: pipeline: unknown (request r9)\n"


def test_help_names_every_option_with_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    nested = {"prompts", "negatives", "wildcards", "controlnets"}  # lists and maps: --option
    for name in set(OPTIONS) - {"output", "stream"} - nested:
        assert f"--{name.replace('_', '-')}" in text
    assert "(default 512; 64 … 16384)" in text
    assert "'dpmpp_2m'" in text


def test_values_of_option_are_json_or_text() -> None:
    options = given_options(
        argparse.Namespace(),
        ["a=1", "b=x=y", "c=true", 'd="7"', "e.f.g=[1, 2]", "e.h=", "i=null"],
    )
    assert options == {
        "a": 1, "b": "x=y", "c": True, "d": "7", "e": {"f": {"g": [1, 2]}, "h": ""}, "i": None
    }  # fmt: skip


def test_compare_image_shows_both_with_outlines() -> None:
    before, after = Image.new("RGB", (300, 200), "black"), Image.new("RGB", (300, 200), "white")
    segs = Segs.from_boxes([(100, 60, 160, 120)], (200, 300), labels=["face"])
    sheet = compare_image(before, after, segs)
    assert sheet.width > 600
    assert sheet.height > 200
    colours = {colour for _, colour in sheet.getcolors(1 << 20) or ()}
    assert {(0, 0, 0), (255, 255, 255), (255, 99, 71)} <= colours
    assert before.getcolors() == [(60000, (0, 0, 0))]  # the arguments stay as they were


def test_compare_image_refuses_unequal_sizes() -> None:
    with pytest.raises(InvalidRequest, match=r"after: size differs .*\(3, 2\).*\(2, 2\)"):
        compare_image(Image.new("RGB", (2, 2)), Image.new("RGB", (3, 2)), [])
