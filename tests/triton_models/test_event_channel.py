"""Events on their way from the step engine to the front end of streams, without Triton."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.waiting import PATIENCE_S, wait_until
from triton_models import environment
from triton_models.event_channel import EventPublisher, EventSubscriber


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "secret")


def test_messages_arrive_in_order_at_their_subscriber(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)

    async def run() -> list[tuple[dict[str, Any], bytes]]:
        subscriber = EventSubscriber(tmp_path / "events")
        await subscriber.open()
        received: list[tuple[dict[str, Any], bytes]] = []
        subscriber.subscribe("mine", lambda fields, data: received.append((fields, data)))
        publisher = EventPublisher(tmp_path / "events")
        publisher.put(("other",), {"token": "another", "event": "step"})
        publisher.put((1,), {"token": "mine", "event": "step", "seg": 1})
        publisher.put((2,), {"token": "mine", "event": "preview"}, pixels)
        publisher.put((3,), {"token": "mine", "event": "segment"}, torch.from_numpy(pixels))
        await asyncio.to_thread(wait_until, lambda: len(received) == 3)
        subscriber.unsubscribe("mine")
        assert len(subscriber) == 0
        return received

    received = asyncio.run(run())
    assert received[0] == ({"event": "step", "seg": 1}, b"")
    assert received[1] == ({"event": "preview", "shape": [2, 4, 3]}, pixels.tobytes())
    assert received[2][1] == pixels.tobytes()


def test_a_publisher_without_the_token_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        subscriber = EventSubscriber(tmp_path / "events")
        await subscriber.open()
        assert (tmp_path / "events").stat().st_mode & 0o077 == 0
        received: list[Any] = []
        subscriber.subscribe("mine", lambda fields, data: received.append(fields))
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(tmp_path / "events"))
            stranger.sendall(b"\0\0\0\x02\0\0\0\0{}" + b"\0\0\0\x11\0\0\0\0" + b'{"token": "mine"}')
            stranger.settimeout(PATIENCE_S)
            assert await asyncio.to_thread(_is_closed, stranger)
        assert received == []

    asyncio.run(run())


def _is_closed(stranger: socket.socket) -> bool:
    try:
        return stranger.recv(1) == b""
    except ConnectionError:
        return True


def test_a_subscriber_that_does_not_read_holds_up_no_publisher(tmp_path: Path) -> None:
    """Of what has the same key the newest waits; pixels are bounded; putting does not wait."""
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(tmp_path / "events"))
        stuck.listen()
        publisher = EventPublisher(tmp_path / "events")
        large = np.zeros((1024, 1024, 3), np.uint8)
        for step in range(20_000):
            publisher.put(("step", step % 3), {"event": "step", "step": step})
        for number in range(200):
            publisher.put(("preview", number), {"event": "preview"}, large)
        assert publisher._waiting_bytes <= 128 << 20
        assert 200 - 128 // 3 - 4 <= publisher.lost <= 200
        assert len(publisher._waiting) <= 3 + 128 // 3 + 1


def test_without_a_socket_everything_is_lost_and_nothing_waits(tmp_path: Path) -> None:
    publisher = EventPublisher(None)
    publisher.put((1,), {"event": "step"})
    assert (publisher.lost, len(publisher._waiting)) == (1, 0)
    publisher = EventPublisher(tmp_path / "missing")
    publisher.put((1,), {"event": "step"})
    wait_until(lambda: publisher.lost)
    assert len(publisher._waiting) == 0


def test_the_front_ends_end_needs_no_torch() -> None:
    # It takes seconds to load, and much memory, in a process that only hands bytes on.
    modules = "triton_models.event_channel, triton_models.front_end_stats"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
