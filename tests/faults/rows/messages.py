"""Messages that are wrong: in gRPC, in HTTP, in Triton's protocol, in the JSON."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInput
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import triton_to_np_dtype

from benchmarks.supervised import PIPELINE, Supervised
from segs_client.contract import MODEL_NAME
from serving.options import MODEL_REPOSITORY
from tests.faults import calls, http2
from tests.faults.bench import Bench
from tests.faults.calls import PIXELS, infer, require_refused, send, small
from tests.faults.row import Rows, allowed_s, require
from tests.faults.traffic import LONG, require_all_answered
from tests.fuzz.messages import can_exist

ROWS = Rows()

_HUGE_BYTES = 600 << 20
_REFUSED = "Each is refused as INVALID_ARGUMENT within 2 s; no process ends"
_SHAPES: dict[str, list[int]] = {
    "wraps to 0": [2**32, 2**32],
    "wraps to few": [2**62, 4, 4],
    "largest": [2**63 - 1],
    "largest twice": [2**63 - 1, 2**63 - 1],
    "negative": [-1],
    "negative product": [-(2**31), -(2**31)],
    "a dimension of 0": [0],
    "no dimension": [],
    "a thousand dimensions": [1] * 1000,
}


def _pids(server: Supervised) -> set[int]:
    return {each.pid for found in server.processes().values() for each in found}


def _refused_without_loss(
    bench: Bench, requests: dict[str, ModelInferRequest], limit_s: float = 2.0
) -> str:
    server = bench.shared()
    before = _pids(server)
    seen = require_refused({name: send(server, each) for name, each in requests.items()}, limit_s)
    require(_pids(server) == before, "a process ended")
    return seen


def _lies() -> dict[str, ModelInferRequest]:
    """Requests whose parts do not fit together."""
    found = {}
    for name, change in _LIES.items():
        found[name] = infer(small())
        change(found[name])
    return found


def _shorten(request: ModelInferRequest) -> None:
    request.raw_input_contents[1] = PIXELS[:-1]


def _lengthen(request: ModelInferRequest) -> None:
    request.raw_input_contents[1] = PIXELS + b"\x00"


def _text_too_long(request: ModelInferRequest) -> None:
    request.raw_input_contents[0] = struct.pack("<I", 2**32 - 1) + b"{}"


def _both_contents(request: ModelInferRequest) -> None:
    request.inputs[1].contents.uint_contents.extend(PIXELS[:16])


def _typed_contents(request: ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.bytes_contents.append(b"{}")
    request.inputs[1].contents.fp32_contents.extend([0.5] * 16)


def _shared_memory(request: ModelInferRequest) -> None:
    del request.raw_input_contents[1]
    request.inputs[1].parameters["shared_memory_region"].string_param = "nobody"
    request.inputs[1].parameters["shared_memory_byte_size"].int64_param = 2**62


_LIES: dict[str, Callable[[Any], object]] = {
    "raw contents too short": _shorten,
    "raw contents too long": _lengthen,
    "a text longer than its tensor": _text_too_long,
    "both contents": _both_contents,
    "typed contents of another type": _typed_contents,
    "shared memory that is not there": _shared_memory,
    "no raw contents": lambda request: request.ClearField("raw_input_contents"),
    "fewer raw contents": lambda request: request.raw_input_contents.pop(),
    "an input twice": lambda request: calls.add_input(
        request, "image", "UINT8", [len(PIXELS)], PIXELS
    ),
    "an unknown input": lambda request: calls.add_input(request, "nobody", "UINT8", [1], b"x"),
    "no inputs": lambda request: (
        request.ClearField("inputs"), request.ClearField("raw_input_contents"),
    ),
    "an input missing": lambda request: (request.inputs.pop(), request.raw_input_contents.pop()),
    "another data type": lambda request: setattr(request.inputs[1], "datatype", "FP64"),
    "a data type that is none": lambda request: setattr(request.inputs[1], "datatype", "x" * 9999),
    "another version": lambda request: setattr(request, "model_version", "99"),
    "a version that is none": lambda request: setattr(request, "model_version", "../1"),
    "an unknown model": lambda request: setattr(request, "model_name", "../../etc/passwd"),
    "an unknown output": lambda request: request.outputs.add(name="nobody"),
}  # fmt: skip


@ROWS.add(
    "lying-requests",
    f"{len(_LIES)} requests whose parts contradict each other: raw contents too short, too long, "
    "beside typed ones; wrong types, names, versions, shared memory",
    _REFUSED,
    short=True,
)
def _lying(bench: Bench) -> str:
    return _refused_without_loss(bench, _lies())


@ROWS.add(
    "wrapped-shapes-front-end",
    "Shapes whose bytes wrap around 2⁶⁴, negative ones, and such of 1,000 dimensions, for both of "
    "the front end's inputs",
    _REFUSED,
    short=True,
)
def _wrapped_front_end(bench: Bench) -> str:
    requests = {}
    for number, name in enumerate(("request", "image")):
        for what, shape in _SHAPES.items():
            request = infer(small())
            request.inputs[number].shape[:] = shape
            requests[f"{name}: {what}"] = request
            request = infer(small())
            request.inputs[number].shape[:] = shape
            request.raw_input_contents[number] = b""
            requests[f"{name}: {what}, empty"] = request
    # A picture of no bytes is a picture that cannot be read: the front end's own refusal.
    return _refused_without_loss(bench, requests)


@ROWS.add(
    "wrapped-shapes-inner",
    "The same shapes for each input of each inner model, and those of them that can exist for each "
    "network's, which any client of the port can call, while 4 requests are under way",
    "Each is refused; the requests under way get their right pictures",
)
def _wrapped_inner(bench: Bench) -> str:
    server = bench.shared()
    bench.learn(server, LONG)
    traffic = bench.traffic(server, LONG)
    begun, count = time.monotonic(), 0
    for model, inputs in _inner_inputs(server).items():
        for name in inputs:
            for what, shape in _SHAPES.items():
                request = _all_inputs(model, inputs, {name: shape})
                if model.startswith(PIPELINE) and not can_exist(request):
                    continue
                answer = send(server, request)
                count += 1
                where = f"{model}.{name}: {what}"
                require(answer.code != "OK", f"{where}: was answered")
                calls.require_nothing_shown(where, answer)
    seconds = time.monotonic() - begun
    seen = require_all_answered(traffic.outcomes(), retries=False)
    return f"{count} refused in {seconds:.1f} s; {seen}"


def _inner_inputs(server: Supervised) -> dict[str, dict[str, str]]:
    """The inputs and their data types of all models but the front end, by their configs."""
    found = {}
    for folder in (MODEL_REPOSITORY, server.setup.repository):
        for path in sorted(folder.glob("*/config.pbtxt")):
            config = text_format.Parse(path.read_text(), ModelConfig())
            if config.name != MODEL_NAME:
                found[config.name] = {each.name: _datatype(each) for each in config.input}
    return found


def _datatype(tensor: ModelInput) -> str:
    kind: str = DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return "BYTES" if kind == "STRING" else kind


def _all_inputs(
    model: str, inputs: dict[str, str], shapes: dict[str, list[int]]
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model)
    for name, kind in inputs.items():
        size = np.dtype(triton_to_np_dtype(kind)).itemsize if kind != "BYTES" else 4
        data = b"" if name in shapes else bytes(size)
        calls.add_input(request, name, kind, shapes.get(name, [1]), data)
    return request


@ROWS.add(
    "oversized-messages",
    "A gRPC message that says it has 4 GiB and does not come; a picture of "
    f"{_HUGE_BYTES >> 20} MiB; HTTP's Content-Length of 2⁶³",
    "Refused, or waited for without memory taken; others are answered",
)
def _oversized(bench: Bench) -> str:
    server = bench.shared()
    before = server.one("tritonserver").memory_info().rss
    with http2.Connection(server.ports["grpc"]) as connection:
        claim = b"\x00" + b"\xff" * 4
        connection.send(http2.headers(1), http2.frame(http2.DATA, 0, 1, claim))
        kinds = {kind for kind, stream, _ in connection.read(2.0) if stream == 1}
        first = "refused" if kinds & {http2.HEADERS, http2.RST_STREAM} else "waited for"
        grown = max(0, server.one("tritonserver").memory_info().rss - before)
    require(grown < 64 << 20, f"tritonserver grew by {grown / 2**20:.0f} MiB")
    answer = send(server, infer(small(image={"encoding": "file"}), bytes(_HUGE_BYTES)), 60.0)
    refused = answer.refused or answer.code == "RESOURCE_EXHAUSTED"
    require(refused, f"{_HUGE_BYTES >> 20} MiB: {answer.code}: {answer.text}")
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {2**63 - 1}\r\n\r\n"
    status = _http(server, head.encode() + b"{}") or "waited for"
    return (
        f"4 GiB: {first}, tritonserver grew by {grown / 2**20:.0f} MiB; {_HUGE_BYTES >> 20} MiB: "
        f"{answer.code} after {answer.seconds:.1f} s; HTTP: {status}"
    )


def _http(server: Supervised, data: bytes, limit_s: float = 2.0) -> str:
    """The first line of what HTTP answers to these bytes; empty if it answers nothing."""
    with socket.create_connection(
        ("127.0.0.1", server.ports["http"]), timeout=allowed_s(limit_s)
    ) as each:
        try:
            each.sendall(data)
            return each.recv(4096).split(b"\r\n")[0].decode("latin-1")
        except (ConnectionError, TimeoutError):
            return ""


_INFER = "/v2/models/segs_detailer/infer"
_BODIES: dict[str, bytes] = {
    "no JSON": b"{",
    "nothing": b"",
    "a list": b"[]",
    "100,000 deep": b"[" * 100_000,
    "no inputs": b"{}",
    "inputs of another kind": b'{"inputs": 5}',
    "an input of another kind": b'{"inputs": [5]}',
    "a shape of another kind": b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": 1}]}',
    "a wrapped shape": b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [4294967296, '
    b'4294967296], "data": []}]}',
    "a binary size of 2**63": b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [4], '
    b'"parameters": {"binary_data_size": 9223372036854775807}}]}',
    "not UTF-8": b"\xff\xfe\x00",
}


@ROWS.add(
    "malformed-http",
    f"Garbage, a head of 1 MiB, wrong methods, and {len(_BODIES)} bodies that are wrong, to the "
    "HTTP port (which is closed unless asked for)",
    "Each is refused or its connection closed; no process ends",
    short=True,
)
def _malformed_http(bench: Bench) -> str:
    server = bench.shared()
    before = _pids(server)
    answers = []
    for body in _BODIES.values():
        for extra in (
            "",
            "Inference-Header-Content-Length: 99999999999999999999\r\n",
            "Inference-Header-Content-Length: -1\r\n",
        ):
            head = (
                f"POST {_INFER} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
            )
            answers.append(_http(server, head.encode() + body))
    for data in (
        np.random.default_rng(0).bytes(4096),
        b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 2**20 + b"\r\n\r\n",
        f"DELETE {_INFER} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /v2/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        http2.PREFACE,
    ):
        answers.append(_http(server, data, 1.0))
    wrong = [each for each in answers if each.startswith("HTTP/1.1 2")]
    require(not wrong, f"{len(wrong)} were answered")
    require(_pids(server) == before, "a process ended")
    return f"{sum(map(bool, answers))} refused, {answers.count('')} without an answer"


@ROWS.add(
    "malformed-grpc",
    "Broken frames, streams that are reset at once by the thousand, heads of 1 MiB, unknown "
    "methods, messages that are no protobuf, to the gRPC port",
    "Others are answered; no process ends",
    short=True,
)
def _malformed_grpc(bench: Bench) -> str:
    server = bench.shared()
    before = _pids(server)
    garbage = np.random.default_rng(0).bytes(65536)
    whole = b"\x00" + struct.pack(">I", 100) + garbage[:100]
    attacks: dict[str, list[bytes]] = {
        "garbage": [garbage],
        "a frame of 16 MiB": [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", garbage],
        "data for no stream": [http2.frame(http2.DATA, 0, 77, b"x")],
        "a head that is no HPACK": [http2.frame(http2.HEADERS, 4, 1, garbage[:1000])],
        "heads without an end": [
            http2.frame(http2.HEADERS, 0, 1),
            *[http2.frame(9, 0, 1, garbage[:16384])] * 64,
        ],
        "an unknown method": [
            http2.headers(1, "/nobody/Nothing"),
            http2.frame(http2.DATA, 1, 1, whole),
        ],
        "no protobuf": [http2.headers(1), http2.frame(http2.DATA, 1, 1, whole)],
        "a compressed message that is none": [
            http2.headers(1),
            http2.frame(http2.DATA, 1, 1, b"\x01" + whole[1:]),
        ],
        "resets": [
            each
            for stream in range(1, 4001, 2)
            for each in (http2.headers(stream), http2.frame(http2.RST_STREAM, 0, stream, bytes(4)))
        ],
        "pings": [http2.frame(http2.PING, 0, 0, bytes(8))] * 10_000,
        "settings": [http2.settings(1)] * 10_000,
        "a window that overflows": [http2.frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff")]
        * 3,
    }
    for frames in attacks.values():
        try:
            with http2.Connection(server.ports["grpc"]) as connection:
                connection.send(*frames)
                list(connection.read(0.3))
        except OSError:
            continue  # the server has closed it
    require(_pids(server) == before, "a process ended")
    answer = send(server, infer(small()))
    require(answer.code == "OK", f"then: {answer.code}: {answer.text}")
    return f"{len(attacks)} attacks; answered after them in {answer.seconds:.2f} s"


@ROWS.add(
    "http-chunks",
    "An HTTP body in a million chunks of a byte (CVE-2025-23311: tritonserver 2.51 may end; the "
    "HTTP port is closed unless asked for)",
    "Refused; or, with a server of before 25.07, back within 30 s",
)
def _http_chunks(bench: Bench) -> str:
    server = bench.shared()
    triton = server.one("tritonserver")
    head = f"POST {_INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = _http(server, head.encode() + b"1\r\nA\r\n" * 10**6 + b"0\r\n\r\n", 10.0)
    time.sleep(1.5)
    if triton.is_running() and triton.status() != psutil.STATUS_ZOMBIE:
        return f"{answers or 'no answer'}; the server lives"
    back_s = server.wait_back(triton)
    require(back_s <= allowed_s(30), f"back after {back_s:.1f} s")
    return f"this server ends (it lacks the fix); back after {back_s:.1f} s"


_TEXTS: dict[str, bytes] = {
    "JSON 100,000 deep": b'{"segs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "16 MiB of JSON": json.dumps({"pipeline": "sd15", "prompt": "a" * (16 << 20)}).encode(),
    "a number of 1 MiB": b'{"seed": ' + b"9" * 2**20 + b"}",
    "a million SEGs": b'{"pipeline": "sd15", "segs": {"items": ['
    + b'{"bbox":[0,0,9,9]},' * 10**6
    + b'{"bbox":[0,0,9,9]}]}}',
    "half a text": json.dumps(small()).encode()[:-20],
    "not UTF-8": b"\xff\xfe",
}


@ROWS.add("hostile-json", f"{len(_TEXTS)} texts: {', '.join(_TEXTS)}", _REFUSED, short=True)
def _hostile_json(bench: Bench) -> str:
    return _refused_without_loss(bench, {name: infer(text) for name, text in _TEXTS.items()})
