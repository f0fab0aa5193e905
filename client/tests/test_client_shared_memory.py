"""Pictures through shared memory, against a server on loopback that reads and writes it."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, serving
from PIL import Image
from test_client_calls import PICTURE, SEGS, echo
from tritonclient.grpc import service_pb2

from segs_client import AsyncClient, Client, DetailResult, Retries, ServerError, Unauthenticated
from segs_client.errors import SegsError
from segs_client.messages import build
from segs_client.shared_memory import RegionSpec
from tests import icc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
FOLDER = Path("/dev/shm")


class FakeShared(FakeTriton):
    """Like :class:`FakeTriton`; ``told`` has the calls about regions, and the size that passed.

    Unregistering is refused ``in_use`` times.
    """

    def __init__(self, handler: Any = echo) -> None:
        super().__init__(handler)
        self.told: list[str] = []
        self.keys: dict[str, str] = {}
        self.passed_bytes = 0
        self.in_use = 0

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.told.append("register")
        assert (FOLDER / request.key).stat().st_size >= request.byte_size
        self.keys[request.name] = request.key
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.told.append("unregister")
        if self.in_use:
            self.in_use -= 1
            message = f"Cannot unregister region '{request.name}', it is currently in use"
            context.abort(grpc.StatusCode.INTERNAL, message)
        del self.keys[request.name]
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.passed_bytes += request.ByteSize()
        whole = service_pb2.ModelInferRequest(model_name=request.model_name, id=request.id)
        contents = iter(request.raw_input_contents)
        for tensor in request.inputs:
            whole.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            here = self._place(tensor)
            whole.raw_input_contents.append(here.read() if here else next(contents))
        response = super().ModelInfer(whole, context)
        for asked in request.outputs:
            if here := self._place(asked):
                index = [each.name for each in response.outputs].index(asked.name)
                here.write(response.raw_output_contents[index])
                response.raw_output_contents[index] = b""
        self.passed_bytes += response.ByteSize()
        return response

    def _place(self, tensor: Any) -> Place | None:
        if "shared_memory_region" not in tensor.parameters:
            return None
        of = tensor.parameters
        offset = of["shared_memory_offset"].int64_param if "shared_memory_offset" in of else 0
        key = self.keys[of["shared_memory_region"].string_param]
        return Place(FOLDER / key, offset, of["shared_memory_byte_size"].int64_param)


class Place:
    """A part of a region."""

    def __init__(self, path: Path, offset: int, length: int) -> None:
        self.path, self.offset, self.length = path, offset, length

    def read(self) -> bytes:
        return self.path.read_bytes()[self.offset : self.offset + self.length]

    def write(self, data: bytes) -> None:
        assert len(data) <= self.length
        with self.path.open("r+b") as file:
            file.seek(self.offset)
            file.write(data)


def regions() -> set[str]:
    return {path.name for path in FOLDER.glob("segs-client-*")}


def sync(url: str, **options: Any) -> DetailResult:
    with Client(url, pipeline="base", shared_memory=True, retries=Retries(rounds=0)) as client:
        return client.detail(PICTURE, SEGS, **options)


def through_loop(url: str, **options: Any) -> DetailResult:
    async def main() -> DetailResult:
        async with AsyncClient(url, pipeline="base", shared_memory=True) as client:
            return await client.detail(PICTURE, SEGS, **options)

    return asyncio.run(main())


@pytest.mark.parametrize("send", [sync, through_loop])
def test_pictures_do_not_pass_through_grpc(send: Any) -> None:
    before = regions()
    fake = FakeShared()
    with serving(fake) as url:
        result = send(url, output={"image": "raw"})
    np.testing.assert_array_equal(np.asarray(result.image), PICTURE)
    np.testing.assert_array_equal(result.segs[0].mask, SEGS[0].mask)
    assert fake.passed_bytes < PICTURE.nbytes + SEGS[0].mask.nbytes
    assert fake.told == ["register", "unregister"]
    assert regions() == before


@pytest.mark.parametrize("send", [sync, through_loop])
def test_a_region_still_in_use_is_unregistered_later(send: Any) -> None:
    fake = FakeShared()
    fake.in_use = 3
    with serving(fake) as url:
        send(url)
    assert fake.told == ["register"] + ["unregister"] * 4
    assert fake.keys == {}


def test_a_jpeg_comes_by_grpc() -> None:
    fake = FakeShared()
    with serving(fake) as url:
        sync(url, output={"image": "jpeg"})
    assert fake.passed_bytes > PICTURE.nbytes


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "it broke", ServerError),
        (grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting", Unauthenticated),
        (grpc.StatusCode.UNAVAILABLE, "gone", SegsError),
    ],
)
def test_nothing_is_left_behind_by_what_fails(
    code: grpc.StatusCode, message: str, kind: type[SegsError]
) -> None:
    before = regions()

    def fail(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        context.abort(code, message)
        raise AssertionError

    fake = FakeShared(fail)
    with serving(fake) as url, pytest.raises(kind):
        sync(url)
    assert fake.told == ["register", "unregister"]
    assert fake.keys == {}
    assert regions() == before


def test_a_cancelled_call_takes_its_region_along() -> None:
    before = regions()

    async def main(url: str) -> None:
        async with AsyncClient(url, pipeline="base", shared_memory=True) as client:
            call = asyncio.create_task(client.detail(PICTURE, SEGS))
            while not fake.passed_bytes:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    def wait(request: Any, context: grpc.ServicerContext) -> dict[str, bytes]:
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(10)
        return {}

    fake = FakeShared(wait)
    with serving(fake) as url:
        asyncio.run(main(url))
    assert fake.told == ["register", "unregister"]
    assert regions() == before


def test_the_room_holds_the_worst_png() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG", compress_level=0)
    built = build(noise, [(0, 0, 3, 8)], pipeline="base")
    assert RegionSpec.of(built).result_bytes > out.tell()


def test_there_is_room_for_the_profile() -> None:
    noise = np.random.default_rng(1).bytes(3 << 20).hex().encode()[: 3 << 20]
    profile = icc.profile(b"RGB ", {b"none": noise})
    image = Image.new("RGB", (3, 8))
    image.info["icc_profile"] = profile
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    built = build(image, [(0, 0, 3, 8)], pipeline="base")
    assert built.profile == profile
    assert RegionSpec.of(built).result_bytes > out.tell() > 1 << 20
