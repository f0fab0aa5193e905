"""Bad input gets a typed error that names the field, and the server answers the next request."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from segs_client import Client
from segs_client.contract import ErrorDetail
from segs_client.errors import DeadlineExceeded, InvalidRequest
from serving.options import REPOSITORY_ROOT
from serving.server import EmbeddedServer
from tests.preprocessing.test_images import png_header

pytestmark = pytest.mark.server

PICTURE = np.zeros((96, 128, 3), dtype=np.uint8)
GOOD = {
    "pipeline": "sd15",
    "steps": 1,
    "guide_size": 64,
    "max_size": 64,
    "image": {"encoding": "raw", "shape": [96, 128, 3]},
    "segs": {"items": [{"bbox": [40, 30, 60, 50]}]},
}
SEG = {"bbox": [0, 0, 8, 8], "crop_region": [0, 0, 8, 8]}
FLOATS = {"length": 256, "shape": [8, 8]}


@pytest.fixture(scope="module")
def triton(server: EmbeddedServer) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.grpc_url) as client:
        yield client


def send(
    triton: InferenceServerClient,
    request: bytes,
    image: bytes = PICTURE.tobytes(),
    masks: bytes | None = None,
) -> Any:
    inputs = [_tensor("request", np.array([request], dtype=object), "BYTES")]
    for name, data in (("image", image), ("masks", masks)):
        if data is not None:
            inputs.append(_tensor(name, np.frombuffer(data, dtype=np.uint8), "UINT8"))
    return triton.infer("segs_detailer", inputs, request_id="my-id", client_timeout=60)


def _tensor(name: str, array: np.ndarray[Any, Any], kind: str) -> InferInput:
    tensor = InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor


def body(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def with_seg(**changes: Any) -> bytes:
    return body(segs={"items": [{**SEG, **changes}]})


def saved(kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, kind, **options)
    return out.getvalue()


def many_scans() -> bytes:
    whole = saved("jpeg", progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * 1000 + whole[-2:]


FILE = {"encoding": "file"}
OTHER_FRAME = [Image.new("RGB", (128, 96), "red")]
LARGE = {"guide_size": 2048, "max_size": 2048}
NAN = np.full((8, 8), np.nan, dtype=np.float32).tobytes()
CASES: dict[str, tuple[bytes, bytes | None, bytes | None, str]] = {
    "broken image": (body(image=FILE), b"\x89PNG\r\n\x1a\nrest", None, "image"),
    "empty image": (body(image=FILE), b"", None, "image"),
    "bomb": (body(image=FILE), png_header(40_000, 40_000), None, "image"),
    "animation": (
        body(image=FILE), saved("webp", save_all=True, append_images=OTHER_FRAME), None, "image"
    ),
    "another format": (body(image=FILE), saved("gif"), None, "image"),
    "half a picture": (body(image=FILE), saved("png")[:-20], None, "image"),
    "too many scans": (body(image=FILE), many_scans(), None, "image"),
    "a name twice": (body()[:-1] + b', "steps": 2}', None, None, "request"),
    "too much work": (body(steps=10_000, cycle=10, **LARGE), None, None, "steps"),
    "too many tokens": (body(prompt="a " * 4000), None, None, "prompt"),
    "an endless weight": (body(prompt="(a:1e999)"), None, None, "prompt"),
    "mask far away": (
        with_seg(mask={**FLOATS, "offset": 2**40}), None, bytes(256), "segs.items.0.mask"
    ),
    "not JSON": (b"{", None, None, "request"),
    "not UTF-8": (b"\xff\xfe", None, None, "request"),
    "not an object": (b"[1, 2]", None, None, "request"),
    "nested too deep": (b"[" * 50_000, None, None, "request"),
    "unknown field": (body(guidesize=512), None, None, "guidesize"),
    "missing field": (b"{}", None, None, "pipeline"),
    "below its range": (body(guide_size=5), None, None, "guide_size"),
    "above its range": (body(cfg=101), None, None, "cfg"),
    "NaN in JSON": (body(cfg=float("nan")), None, None, "cfg"),
    "a weight that is no number": (body(prompt="(a:nan)"), None, None, "prompt"),
    "seed too large": (body(seed=2**64), None, None, "seed"),
    "seed without room for its passes": (
        body(seed=2**64 - 2, batch_size=2, steps=1), None, None, "seed"
    ),
    "unknown pipeline": (body(pipeline="nobody"), None, None, "pipeline"),
    "pipeline that is a path": (body(pipeline="../../etc"), None, None, "pipeline"),
    "unknown sampler": (body(sampler_name="nobody"), None, None, "sampler_name"),
    "unknown scheduler": (body(scheduler="nobody"), None, None, "scheduler"),
    "raw image of another size": (body(), b"abc", None, "image"),
    "region outside": (
        with_seg(crop_region=[0, 90, 8, 98]), None, None, "segs.items.0.crop_region"
    ),
    "mask of another size": (
        with_seg(mask={"length": 64, "shape": [4, 4]}), None, bytes(64), "segs.items.0.mask.shape"
    ),
    "mask that is not there": (with_seg(mask=FLOATS), None, None, "segs.items.0.mask"),
    "NaN in a mask": (with_seg(mask=FLOATS), None, NAN, "segs.items.0.mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(triton: InferenceServerClient, name: str) -> None:
    request, image, masks, field = CASES[name]
    with pytest.raises(InferenceServerException) as refusal:
        send(triton, request, PICTURE.tobytes() if image is None else image, masks)
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    detail = ErrorDetail.from_status_message(refusal.value.message())
    assert detail is not None, refusal.value.message()
    assert detail.code == "INVALID_ARGUMENT"
    assert detail.field == field
    assert detail.allowed
    assert detail.request_id == "my-id"
    assert not any(trace in refusal.value.message() for trace in (".py", str(REPOSITORY_ROOT)))
    assert json.loads(send(triton, body()).as_numpy("report").tobytes())["segs"]


def test_the_client_raises_what_the_server_refuses(server: EmbeddedServer) -> None:
    with Client(server.grpc_url, pipeline="nobody") as client:
        with pytest.raises(InvalidRequest) as refusal:
            client.detail(PICTURE, [(40, 30, 60, 50)])
        assert refusal.value.field == "pipeline"
        assert "sd15" in str(refusal.value.allowed).split(", ")


def test_a_deadline_ends_the_work(server: EmbeddedServer) -> None:
    with Client(server.grpc_url, pipeline="sd15") as client:
        with pytest.raises(DeadlineExceeded):
            client.detail(PICTURE, [(40, 30, 60, 50)], steps=10_000, denoise=1.0, timeout_s=1)
        result = client.detail(PICTURE, [(40, 30, 60, 50)], steps=1, guide_size=64)
        assert result.report.segs[0].status == "enhanced"


def test_no_segs_gives_the_picture_back(server: EmbeddedServer) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    with Client(server.grpc_url, pipeline="sd15") as client:
        result = client.detail(picture, [])
    assert np.array_equal(np.asarray(result.image), picture)
    assert result.report.segs == ()
