"""A fixed mix of what clients do: pictures of many kinds, refusals, cancels, deadlines, and clients
that go away. The ``index``-th thing done is the same in every run."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from examples import scene
from segs_client import Client, DeadlineExceeded, InvalidRequest, Retries, Segs, transport
from segs_client.errors import Cancelled, from_transport
from segs_client.messages import BuiltRequest, build
from tests.service import test_refusals as refusals

PIPELINE = "sd15"
ANSWER_S = 180.0
"""For any answer, however busy the machine."""
_MIX = {
    "picture": 17,
    "large picture": 1,
    "ControlNet": 3,
    "crops back": 2,
    "followed": 3,
    "stream left": 2,
    "refusal": 6,
    "cancelled": 4,
    "too late": 4,
    "client gone": 2,
    "half a connection": 1,
}
_SIZES = ((96, 64), (128, 128), (200, 160), (320, 240), (512, 336))
_LARGE = (1280, 960)
_FORMS = ("PNG", "JPEG", "WEBP", "raw")
_WORDS = ("smiling", "old", "young", "sad", "bright", "painted", "freckled", "serious")
_LONG_STEPS = 100
_NEW_CLIENT = 0.2
"""Share of pictures sent over a connection of their own."""
_KNOWN_SEED = 7
MOST_OFF = 2
"""Grey levels; other requests in the same batch may change the last bits."""


@dataclass(frozen=True)
class Outcome:
    """What became of one thing done; ``problem`` is empty where it was as it should be."""

    index: int
    kind: str
    begun_s: float
    seconds: float
    problem: str = ""


def _client(url: str) -> Client:
    """One that hides no refusal."""
    return Client(url, pipeline=PIPELINE, timeout_s=ANSWER_S, retries=Retries(rounds=0))


class Traffic:
    """Clients of one server; safe to use from several threads.

    Args:
        url: of the server's gRPC.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept = _client(url)
        self._known: np.ndarray[Any, Any] | None = None
        self._doers: dict[str, Callable[[np.random.Generator, int], str]] = {
            "picture": self._picture,
            "large picture": self._large_picture,
            "ControlNet": self._controlnet,
            "crops back": self._crops_back,
            "followed": self._followed,
            "stream left": self._stream_left,
            "refusal": self._refusal,
            "cancelled": self._cancelled,
            "too late": self._too_late,
            "client gone": self._client_gone,
            "half a connection": self._half_a_connection,
        }

    def close(self) -> None:
        """Closes the connection that was kept."""
        self._kept.close()

    def do(self, index: int) -> Outcome:
        """Does the ``index``-th thing and returns the outcome; raises nothing."""
        kind = _kinds(index // len(_slots()))[index % len(_slots())]
        return self.do_one(kind, index)

    def do_one(self, kind: str, index: int) -> Outcome:
        """One thing of this kind, whatever the mix says."""
        begun_s = time.monotonic()
        try:
            problem = self._doers[kind](np.random.default_rng([index, 1]), index)
        except Exception as error:  # anything but what was expected is a finding
            problem = f"{type(error).__name__}: {error}"
        return Outcome(index, kind, begun_s, time.monotonic() - begun_s, problem)

    def known_picture(self) -> Outcome:
        """One request that is always the same: its picture has to stay the same too."""
        begun_s = time.monotonic()
        options: dict[str, Any] = {**_SMALL, "seed": _KNOWN_SEED, "output": {"image": "raw"}}
        try:
            result = self._kept.detail(_picture(1, "raw"), [(30, 30, 90, 90)], **options)
            found = np.asarray(result.image).astype(np.int16)
            if self._known is None:
                self._known = found
            off = int(np.abs(found - self._known).max())
            problem = f"{off} grey levels off" if off > MOST_OFF else ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        return Outcome(-1, "known picture", begun_s, time.monotonic() - begun_s, problem)

    def _picture(self, random: np.random.Generator, index: int) -> str:
        which = int(random.integers(len(_SIZES)))
        picture = _picture(which, _FORMS[random.integers(len(_FORMS))])
        form = ("png", "jpeg", "webp", "raw")[random.integers(4)]
        options = {**_options(random, index), "output": {"image": form}}
        segs = _segs(random, _SIZES[which], int(random.integers(1, 9)))
        if random.random() < _NEW_CLIENT:
            with _client(self._url) as client:
                result = client.detail(picture, segs, **options)
        else:
            result = self._kept.detail(picture, segs, **options)
        return _wrong(result, _SIZES[which], len(segs))

    def _large_picture(self, random: np.random.Generator, index: int) -> str:
        segs = _segs(random, _LARGE, 8)
        options = _options(random, index)
        result = self._kept.detail(_picture(len(_SIZES), "JPEG"), segs, **options)
        return _wrong(result, _LARGE, len(segs))

    def _controlnet(self, random: np.random.Generator, index: int) -> str:
        size = _SIZES[2]
        options = _options(random, index)
        options["controlnets"] = [{"name": "controlnet", "image": _picture(2, "raw")}]
        segs = _segs(random, size, int(random.integers(1, 4)))
        result = self._kept.detail(_picture(2, "PNG"), segs, **options)
        return _wrong(result, size, len(segs))

    def _crops_back(self, random: np.random.Generator, index: int) -> str:
        size = _SIZES[3]
        form = ("png", "uint8", "float32")[random.integers(3)]
        options = {**_options(random, index), "output": {"image": "none", "seg_images": form}}
        segs = _segs(random, size, int(random.integers(1, 4)))
        result = self._kept.detail(_picture(3, "WEBP"), segs, **options)
        back = [seg.image is not None for seg in result.segs]
        return "" if all(back) and len(back) == len(segs) else f"crops back: {back}"

    def _followed(self, random: np.random.Generator, index: int) -> str:
        size = _SIZES[2]
        asked = {"preview_every": 2, "segment_pictures": True}
        options = {**_options(random, index), "stream": asked}
        segs = _segs(random, size, int(random.integers(1, 4)))
        *_, last = self._kept.stream(_picture(2, "PNG"), segs, **options)
        return "no result" if last.result is None else _wrong(last.result, size, len(segs))

    def _stream_left(self, random: np.random.Generator, index: int) -> str:
        options = {**_options(random, index), "steps": _LONG_STEPS}
        segs = _segs(random, _SIZES[1], 4)
        updates = self._kept.stream(_picture(1, "raw"), segs, **options)
        for _ in range(int(random.integers(1, 9))):
            if next(updates).is_last:
                return "ended before it was left"
        updates.close()
        return ""

    def _refusal(self, random: np.random.Generator, index: int) -> str:
        names = list(refusals.CASES)
        name = names[random.integers(len(names))]
        request, image, masks, field = refusals.CASES[name]
        picture = refusals.PICTURE.tobytes() if image is None else image
        with InferenceServerClient(self._url) as client:
            try:
                refusals.send(client, request, picture, masks)
            except InferenceServerException as error:
                refused = from_transport(error)
                if isinstance(refused, InvalidRequest) and refused.field == field:
                    return ""
                return f"{name}: {refused.code} {refused}"
        return f"{name}: was not refused"

    def _cancelled(self, random: np.random.Generator, index: int) -> str:
        with InferenceServerClient(self._url) as client:
            call, ended = _begin(client, random, index)
            time.sleep(float(random.random()) * 0.3)
            call.cancel()
            if not ended.wait(ANSWER_S):
                return "no answer after cancelling"
        return ""

    def _too_late(self, random: np.random.Generator, index: int) -> str:
        options = {**_options(random, index), "steps": _LONG_STEPS}
        limit_s = 0.001 + float(random.random()) * 0.3
        begun_s = time.monotonic()
        try:
            segs = _segs(random, _SIZES[1], 4)
            self._kept.detail(_picture(1, "raw"), segs, timeout_s=limit_s, **options)
        except (DeadlineExceeded, Cancelled):
            late_s = time.monotonic() - begun_s - limit_s
            return "" if late_s < 2 else f"refused {late_s:.1f} s after its deadline"
        return "was answered after its deadline"

    def _client_gone(self, random: np.random.Generator, index: int) -> str:
        client = InferenceServerClient(self._url)
        _begin(client, random, index)
        time.sleep(float(random.random()) * 0.2)
        client.close()
        return ""

    def _half_a_connection(self, random: np.random.Generator, index: int) -> str:
        host, _, port = self._url.rpartition(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(preface[: int(random.integers(1, len(preface)))])
            time.sleep(float(random.random()) * 0.5)
            reset = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        return ""


_SMALL: dict[str, Any] = {"guide_size": 64, "max_size": 128}


@cache
def _slots() -> list[str]:
    return [kind for kind, count in _MIX.items() for _ in range(count)]


@cache
def _kinds(cycle: int) -> list[str]:
    kinds = _slots()
    return [kinds[place] for place in np.random.default_rng([cycle, 2]).permutation(len(kinds))]


@cache
def _picture(which: int, form: str) -> Any:
    """One of the pictures, as a file of that form or as pixels ``[H, W, 3]``."""
    image = scene.draw(*_LARGE)[0].resize((*_SIZES, _LARGE)[which])
    if form == "raw":
        return np.asarray(image)
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def _options(random: np.random.Generator, index: int) -> dict[str, Any]:
    word = _WORDS[index % len(_WORDS)]
    return {
        **_SMALL,
        "prompt": f"a {word} face, number {index}",
        "negative": "blurred",
        "seed": index,
        "steps": int(random.integers(2, 7)),
        "sampler_name": ("euler", "dpmpp_2m", "heun")[random.integers(3)],
    }


def _segs(random: np.random.Generator, size: tuple[int, int], count: int) -> Segs:
    """SEGS with soft masks, somewhere in a picture of this (width, height)."""
    width, height = size
    boxes = []
    for _ in range(count):
        side = int(random.integers(16, 49))
        x, y = int(random.integers(width - side)), int(random.integers(height - side))
        boxes.append((x, y, x + side, y + side))
    return Segs.from_boxes(boxes, (height, width), crop_factor=1.5)


def _wrong(result: Any, size: tuple[int, int], count: int) -> str:
    statuses = [seg.status for seg in result.report.segs]
    if result.image.size != size or statuses != ["enhanced"] * count:
        return f"picture of {result.image.size}, SEGs {statuses}"
    return ""


def _begin(
    client: InferenceServerClient, random: np.random.Generator, index: int
) -> tuple[Any, threading.Event]:
    """A long request under way: its call, and what is set when it has ended."""
    built: BuiltRequest = build(
        _picture(1, "raw"),
        _segs(random, _SIZES[1], 4),
        pipeline=PIPELINE,
        **{**_options(random, index), "steps": _LONG_STEPS},
    )
    arguments = transport.infer_arguments(built, transport.new_request_id(), ANSWER_S)
    ended = threading.Event()
    call = client.async_infer(callback=lambda result, error: ended.set(), **arguments)
    return call, ended
