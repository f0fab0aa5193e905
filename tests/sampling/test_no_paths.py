"""No path is made of anything in a request: nothing is opened on its way through the stages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.control import preprocessors
from preprocessing.prepare import RequestTensors
from runners.in_process import LocalDetailer
from segs_client.contract import ContractError, DetailRequest
from tests.conftest import CONTROLNET

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
HOSTILE = (
    "../../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "..\\..\\windows\\win.ini",
    "a\x00b",
    "~root",
    "$HOME",
    "%2e%2e/etc",
    "con",
    "embedding:../../etc/passwd",
    "{../x|/etc/passwd}",
)
NAMES = ("../x", "/etc/passwd", "a/../../b", "..", ".", "-rf", "sd15_unet", "sd15.pipeline.json")

_TOUCHES = ("open", "os.", "pathlib.", "shutil.", "glob.", "subprocess.", "socket.", "import")
_FREE = ("os.putenv", "os.unsetenv")


class _Watch:
    """Notes whatever Python asks of the file system, of processes and of the network."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] | None = None
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is not None and event.startswith(_TOUCHES) and event not in _FREE:
            self.seen.append((event, arguments))

    @contextmanager
    def watching(self) -> Iterator[list[tuple[str, Any]]]:
        seen: list[tuple[str, Any]] = []
        self.seen = seen
        try:
            yield seen
        finally:
            self.seen = None


WATCH = _Watch()  # a hook stays for good, so there is one


@pytest.fixture(scope="module")
def detailer(repository: Path) -> LocalDetailer:
    """Warm: what is imported and opened once has been."""
    preprocessors()
    made = LocalDetailer([repository])
    made.detail(inputs(request()))
    with pytest.raises(ContractError):
        made.detail(RequestTensors(b"{}", PICTURE.reshape(-1)))
    return made


def inputs(asked: DetailRequest) -> RequestTensors:
    return RequestTensors(asked.model_dump_json().encode(), PICTURE.reshape(-1))


def request(text: str = "a face", **changes: Any) -> DetailRequest:
    """Every text that a request may have is ``text``."""
    plain = text.replace("embedding:", "")
    fields = {
        "pipeline": "sd15",
        "prompt": plain,
        "negative": plain,
        "prompts": [{"text": plain}],
        "seg_prompts": {"text": f"{plain} [SEP] {plain}"},
        "wildcards": {"a/../../b": [plain], "/etc/passwd": [plain]},
        "image": {"encoding": "raw", "shape": [64, 64, 3]},
        "segs": {
            "items": [
                {"bbox": [16, 16, 48, 48], "label": text},
                {"bbox": [16, 16, 48, 48], "label": text, "prompt": f"__/etc/passwd__ {plain}"},
                {"bbox": [16, 16, 48, 48], "label": text, "prompt": "__a/../../b__"},
            ]
        },
        "controlnets": [{"name": CONTROLNET, "preprocessor": "canny"}],
        "steps": 1,
        "guide_size": 64,
        "max_size": 64,
        "output": {"seg_images": "png", "control_images": True},
        **changes,
    }
    return DetailRequest.model_validate(fields)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_open_nothing(detailer: LocalDetailer, text: str) -> None:
    with WATCH.watching() as seen:
        done = detailer.detail(inputs(request(text)))
    assert [seg.status for seg in done.report.segs] == ["enhanced"] * 3
    assert _paths(seen) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "where", ["pipeline", "refiner", "controlnet", "preprocessor", "embedding", "wildcard"]
)
def test_names_are_looked_up_and_open_nothing(
    detailer: LocalDetailer, where: str, name: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "pipeline": {"pipeline": name},
        "refiner": {"refiner": {"pipeline": name}},
        "controlnet": {"controlnets": [{"name": name}]},
        "preprocessor": {"controlnets": [{"name": CONTROLNET, "preprocessor": name}]},
        "embedding": {"prompt": f"embedding:{name}"},
        "wildcard": {"negative": f"__{name}__", "wildcards": {}},
    }
    asked = request().model_dump() | changes[where]
    text = DetailRequest.model_construct(**asked).model_dump_json(warnings=False).encode()
    with WATCH.watching() as seen, pytest.raises(ContractError) as refusal:
        detailer.detail(RequestTensors(text, PICTURE.reshape(-1)))
    assert refusal.value.detail.field
    assert _paths(seen) == []


def _paths(seen: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Without what comes of the machinery alone: event loops open sockets, with no name, and a
    model gives signs of life from a thread."""
    ours = [each for each in seen if not each[0].startswith("socket.")]
    return [each for each in ours if not (each[0] == "os.utime" and ".beat" in str(each[1]))]
