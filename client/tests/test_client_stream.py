"""Events, and the client's streams against a server on loopback that speaks Triton's protocol."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import numpy as np
import pytest
from fake_server import FakeTriton, inputs_of, serving
from PIL import Image
from pydantic import ValidationError

import segs_client
from segs_client import Client, Retries, StepEvent, cli, schema
from segs_client.contract import parse_request
from segs_client.events import EVENT_ADAPTER, parse_event
from segs_client.progress import ProgressBars

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
BOXES = [(4, 4, 20, 20), (20, 8, 40, 28)]

EVENTS: list[dict[str, Any]] = [
    {"event": "queued", "position": 37, "estimate_s": 12.3},
    {"event": "accepted", "position": 2, "estimate_s": None, "seg_passes": 2, "previews": True},
    {"event": "segment_started", "seg": 0, "label": "face", "sampled_size": [64, 48],
     "cycles": 1, "steps": 4},
    {"event": "step", "seg": 0, "cycle": 0, "step": 1, "steps": 4},
    {"event": "preview", "seg": 0, "cycle": 0, "step": 2, "steps": 4,
     "picture": {"encoding": "png", "shape": [2, 3, 3]}},
    {"event": "segment", "seg": 0, "status": "enhanced", "steps_run": 4, "sample_s": 0.5,
     "picture": {"encoding": "png", "shape": [2, 3, 3]}},
    {"event": "segment", "seg": 1, "status": "failed",
     "error": {"code": "INTERNAL", "message": "it broke", "incident": "abc"}},
]  # fmt: skip


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (3, 2), (10, 200, 30)).save(out, "PNG")
    return out.getvalue()


def event(fields: dict[str, Any], request_id: str, seq: int) -> dict[str, bytes]:
    text = json.dumps({"request_id": request_id, "seq": seq, "at_s": seq / 10, **fields})
    picture = {"picture": png()} if fields.get("picture") else {}
    return {"event": text.encode(), **picture}


def tells(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
    """All events; the result is the picture as it came."""
    if "cancel" in request.parameters:
        named = request.parameters["cancel"].string_param
        if named == "known":
            yield event({"event": "cancelled"}, named, 0)
        else:
            error = {"code": "NOT_FOUND", "message": f"no request {named!r}"}
            yield event({"event": "error", "error": error}, request.id, 0)
        return
    tensors = inputs_of(request)
    asked = parse_request(tensors["request"])
    for seq, fields in enumerate(EVENTS):
        yield event(fields, request.id, seq)
    segs = [
        {"index": index, "status": "enhanced", "bbox": item.bbox, "crop_region": item.bbox}
        for index, item in enumerate(asked.segs.items)
    ]
    report = {"pipeline": asked.pipeline, "segs": segs, "times_s": {},
              "image": {"encoding": "raw", "shape": PICTURE.shape}}  # fmt: skip
    yield {
        **event({"event": "result"}, request.id, len(EVENTS)),
        "report": json.dumps(report).encode(),
        "detailed_image": PICTURE.tobytes(),
        "detailed_segs": b"",
        "used_control_images": b"",
    }


def unary(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
    raise AssertionError("nobody asks here")


def test_all_events_come_typed_and_the_result_last() -> None:
    fake = FakeTriton(unary, streamer=tells)
    with serving(fake) as url, Client(url, pipeline="base") as client:
        options = {"stream": {"preview_every": 2, "segment_pictures": True}, "steps": 4}
        told = list(client.stream(PICTURE, BOXES, request_id="abc", timeout_s=9, **options))
    assert [update.event.event for update in told] == [
        *(each["event"] for each in EVENTS),
        "result",
    ]
    assert {update.event.request_id for update in told} == {"abc"}
    pictures = [update.picture for update in told if update.picture is not None]
    assert [picture.getpixel((0, 0)) for picture in pictures] == [(10, 200, 30)] * 2
    result = told[-1].result
    assert result is not None
    np.testing.assert_array_equal(np.asarray(result.image), PICTURE)
    assert [update.result for update in told[:-1]] == [None] * len(EVENTS)
    (request,) = fake.requests
    assert request.model_name == "segs_detailer_stream"
    assert request.parameters["timeout"].int64_param == pytest.approx(9e6, rel=0.05)
    asked = parse_request(inputs_of(request)["request"])
    assert (asked.stream.preview_every, asked.steps) == (2, 4)


def test_an_error_event_raises_what_the_unary_call_raises() -> None:
    detail = {"code": "UNAVAILABLE", "message": "overloaded", "retry_after_s": 2.5}

    def refuses(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        yield event({"event": "error", "error": detail}, request.id, 0)

    with (
        serving(FakeTriton(unary, streamer=refuses)) as url,
        Client(url, pipeline="base", retries=Retries(rounds=0)) as client,
        pytest.raises(segs_client.ServerUnavailable, match="overloaded") as caught,
    ):
        list(client.stream(PICTURE, BOXES, request_id="abc"))
    assert (caught.value.retry_after_s, caught.value.request_id) == (2.5, "abc")


def test_a_stream_goes_elsewhere_until_something_was_told() -> None:
    def refuses(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        error = {"code": "UNAVAILABLE", "message": "the server is stopping", "retry_after_s": 5}
        yield event({"event": "error", "error": error}, request.id, 0)

    def breaks(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        yield event(EVENTS[0], request.id, 0)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    first, second = FakeTriton(unary, streamer=refuses), FakeTriton(unary, streamer=tells)
    with serving(first) as one, serving(second) as other:
        with Client([one, other], pipeline="base") as client:
            results = [list(client.stream(PICTURE, BOXES))[-1].result for _ in range(2)]
        assert [each and each.url for each in results] == [other, other]
        assert sorted(each.tries for each in results if each) in ([1, 1], [1, 2])
        second.streamer = breaks
        with (
            Client(other, pipeline="base") as client,
            pytest.raises(segs_client.ServerUnavailable, match="Socket closed"),
        ):
            list(client.stream(PICTURE, BOXES))
    assert len(second.requests) == 3  # what has begun is not repeated
    assert len({request.id for request in second.requests}) == 3


def test_cancelling_by_id() -> None:
    with serving(FakeTriton(unary, streamer=tells)) as url, Client(url) as client:
        client.cancel("known")
        with pytest.raises(segs_client.NotFound, match="no request 'other'"):
            client.cancel("other")


def test_cancelling_by_id_asks_all_servers() -> None:
    nobody = "127.0.0.1:1"
    with serving(FakeTriton(unary, streamer=tells)) as url:
        for urls in ([nobody, url], [url, nobody]):
            with Client(urls) as client:
                client.cancel("known")
                with pytest.raises(segs_client.ServerUnavailable):
                    client.cancel("other")


def test_closing_the_generator_cancels_the_call() -> None:
    gone = threading.Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        context.add_callback(gone.set)
        yield event(EVENTS[0], request.id, 0)
        gone.wait(10)

    with (
        serving(FakeTriton(unary, streamer=endless)) as url,
        Client(url, pipeline="base") as client,
    ):
        stream = client.stream(PICTURE, BOXES)
        assert next(stream).event.event == "queued"
        assert not gone.is_set()
        stream.close()
        assert gone.wait(5)


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"event": b"{"},
        {"event": b'{"event": "unheard of", "request_id": "", "seq": 0, "at_s": 0}'},
        event({**EVENTS[4], "picture": {"encoding": "png", "shape": [5, 5, 3]}}, "abc", 0),
        {**event(EVENTS[4], "abc", 0), "picture": b"no picture"},
    ],
)
def test_what_is_no_event_breaks_the_contract(outputs: dict[str, bytes]) -> None:
    def lies(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        yield outputs

    with (
        serving(FakeTriton(unary, streamer=lies)) as url,
        Client(url, pipeline="base") as client,
        pytest.raises(segs_client.ServerError, match="breaks the contract"),
    ):
        list(client.stream(PICTURE, BOXES))


def test_a_stream_that_just_ends_is_an_error() -> None:
    def stops(request: Any, context: grpc.ServicerContext) -> Iterator[dict[str, bytes]]:
        yield event(EVENTS[0], request.id, 0)

    with (
        serving(FakeTriton(unary, streamer=stops)) as url,
        Client(url, pipeline="base") as client,
        pytest.raises(segs_client.ServerError, match="without a result"),
    ):
        list(client.stream(PICTURE, BOXES))


@pytest.mark.parametrize("fields", EVENTS)
def test_events_match_the_schema_and_nothing_is_added(fields: dict[str, Any]) -> None:
    whole = {"version": 1, "request_id": "r", "seq": 0, "at_s": 0.5, **fields}
    root = schema.contract_schema()
    validator = jsonschema.Draft202012Validator({**root, "$ref": "#/$defs/event"})
    validator.validate(whole)
    parsed = parse_event(json.dumps(whole))
    validator.validate(json.loads(parsed.model_dump_json()))
    with pytest.raises(ValueError, match="not an event"):
        parse_event(json.dumps({**whole, "more": 1}))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**whole, "more": 1})
    with pytest.raises(ValidationError):
        EVENT_ADAPTER.validate_python({**whole, "version": 2})


def test_bars_follow_the_events() -> None:
    drawn = io.StringIO()
    with ProgressBars(drawn) as bars:
        for seq, fields in enumerate(EVENTS):
            bars.show(parse_event(event(fields, "r", seq)["event"]))
        bars.show(StepEvent(request_id="r", seq=9, at_s=1, seg=7, cycle=0, step=1, steps=2))
    assert "waiting behind 37, done in about 12 s" in drawn.getvalue()
    assert "SEG 0 face" in drawn.getvalue()
    assert "1/4" in drawn.getvalue()
    assert "2/2" in drawn.getvalue()


def test_the_command_line_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "photo.png")
    fake = FakeTriton(unary, streamer=tells)
    with serving(fake) as url:
        status = cli.main(
            [str(tmp_path / "photo.png"), "--box", "4,4,20,20", "--pipeline", "base", "--url", url,
             "-o", str(tmp_path / "out.png"), "--progress"]
        )  # fmt: skip
    assert status == cli.DONE
    assert fake.requests[0].model_name == "segs_detailer_stream"
    assert "SEG 0 face" in capsys.readouterr().err
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), PICTURE)
