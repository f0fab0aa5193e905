"""Pictures through shared memory to a real server, where it is open to that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segs_client import AsyncClient, Client, DetailResult, Unauthenticated
from serving.server import EmbeddedServer

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(3).integers(0, 256, (96, 128, 3), np.uint8)
OPTIONS: dict[str, Any] = {"steps": 2, "guide_size": 64, "max_size": 64, "crop_factor": 1.0}
BOXES = [(8, 8, 72, 72)]


@pytest.fixture(scope="module")
def open_server(sd15: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer([sd15], open_protocols=("shared-memory",)) as running:
        yield running


@pytest.mark.parametrize("form", ["png", "raw", "webp"])
def test_the_picture_is_the_same(open_server: EmbeddedServer, form: str) -> None:
    async def through_loop() -> DetailResult:
        async with AsyncClient(url, pipeline="sd15", shared_memory=True) as client:
            return await client.detail(PICTURE, BOXES, output={"image": form}, **OPTIONS)

    url = open_server.grpc_url
    with Client(url, pipeline="sd15") as client:
        right = client.detail(PICTURE, BOXES, output={"image": form}, **OPTIONS)
    with Client(url, pipeline="sd15", shared_memory=True) as client:
        shared = client.detail(PICTURE, BOXES, output={"image": form}, **OPTIONS)
    for result in (shared, asyncio.run(through_loop())):
        np.testing.assert_array_equal(np.asarray(result.image), np.asarray(right.image))
    with open_server.connection.open() as client:
        assert not client.get_system_shared_memory_status().regions


def test_a_server_is_closed_to_it_by_default(server: EmbeddedServer) -> None:
    with (
        Client(server.grpc_url, pipeline="sd15", shared_memory=True) as client,
        pytest.raises(Unauthenticated, match="restricted"),
    ):
        client.detail(PICTURE, BOXES, **OPTIONS)
    assert not list(Path("/dev/shm").glob("segs-client-*"))
