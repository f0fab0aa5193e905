"""The example for Node against a server on loopback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_server import FakeTriton, inputs_of, serving
from PIL import Image
from tritonclient.grpc import service_pb2

from segs_client.contract import API_KEY_HEADER, ErrorDetail, parse_request

FOLDER = Path(__file__).parent.parent.parent / "examples" / "node"
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (FOLDER / "node_modules").is_dir(),
    reason="needs node and examples/node/node_modules: npm ci",
)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((48, 32), 60).convert("RGB").save(path)
    return path


def run(photo: Path, url: str, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = ["node", str(FOLDER / "detail.mjs"), str(photo), str(photo.with_name("out.png"))]
    command += ["--url", url, "--pipeline", "base", "--box", "4,4,20,20", *words]
    environment = {"PATH": str(Path(shutil.which("node") or "").parent), "SEGS_API_KEY": key}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@needs_node
def test_a_request_goes_there_and_a_picture_comes_back(photo: Path) -> None:
    seen: dict[str, Any] = {}

    def answer(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        tensors = inputs_of(request)
        asked = parse_request(tensors["request"])
        seen.update(asked=asked, key=dict(context.invocation_metadata()).get(API_KEY_HEADER))
        seen.update(timeout=request.parameters["timeout"].int64_param, image=tensors["image"])
        seg = {"index": 0, "status": "enhanced", "bbox": [4, 4, 20, 20], "seed": 7, "sample_s": 0.5}
        return {"report": json.dumps({"segs": [seg]}).encode(), "detailed_image": tensors["image"]}

    with serving(FakeTriton(answer)) as url:
        done = run(photo, url, "--prompt", "a häppy face", "--seed", "7", key="secret")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0 enhanced 4,4,20,20 seed 7 0.5 s\n"
    assert photo.with_name("out.png").read_bytes() == photo.read_bytes() == seen["image"]
    asked = seen["asked"]
    assert (asked.pipeline, asked.prompt, asked.seed) == ("base", "a häppy face", 7)
    assert asked.segs.items[0].bbox == (4, 4, 20, 20)
    assert (seen["key"], seen["timeout"]) == ("secret", 300_000_000)


@needs_node
def test_what_is_unavailable_is_tried_again_and_what_is_refused_is_told(photo: Path) -> None:
    def answer(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        if len(fake.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        detail = ErrorDetail(
            code="INVALID_ARGUMENT", message="pipeline: unknown", request_id=request.id
        )
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, detail.to_status_message())
        raise AssertionError

    fake = FakeTriton(answer)
    with serving(fake) as url:
        done = run(photo, url)
    ids = {request.id for request in fake.requests}
    assert len(fake.requests) == 3
    assert len(ids) == 1
    assert done.returncode == 2
    assert done.stderr == f"INVALID_ARGUMENT: pipeline: unknown (request {ids.pop()})\n"


def test_the_proto_has_tritons_numbers() -> None:
    text = (FOLDER / "inference.proto").read_text()
    fields = re.findall(r"^\s+(?:repeated )?(?:map<.*?>|\w+) (\w+) = (\d+);", text, re.MULTILINE)
    theirs: set[tuple[str, str]] = set()
    for name in (
        "ModelReadyRequest", "ModelReadyResponse", "InferParameter", "ModelInferRequest",
        "ModelInferResponse", "ModelInferRequest.InferInputTensor",
        "ModelInferResponse.InferOutputTensor",
    ):  # fmt: skip
        message = service_pb2
        for part in name.split("."):
            message = getattr(message, part)
        theirs |= {(each.name, str(each.number)) for each in message.DESCRIPTOR.fields}
    assert len(fields) == 20
    assert set(fields) <= theirs
