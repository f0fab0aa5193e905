"""A UNet that goes wrong for one SEG, in a real server and over plain gRPC: that SEG fails, and
no other."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from segs_client.contract import ErrorDetail
from serving.server import EmbeddedServer
from tests.service.observed import batches_shared
from tests.service.poison import NARROW, NOT_A_NUMBER, add_poisoned
from tests.waiting import wait_until

pytestmark = pytest.mark.server

PICTURE = np.random.default_rng(3).integers(0, 256, (96, 192, 3), dtype=np.uint8)
BOXES = [(8, 8, 40, 40), (72, 8, 104, 40), (136, 8, 168, 40)]


@dataclass(frozen=True)
class Answer:
    """What came back: the report's entries and the picture."""

    segs: list[dict[str, Any]]
    picture: NDArray[np.uint8]

    @property
    def statuses(self) -> list[str]:
        return [seg["status"] for seg in self.segs]


@pytest.fixture(scope="module")
def poisoned(sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    folder = tmp_path_factory.mktemp("poisoned")
    add_poisoned(sd15, folder)
    with EmbeddedServer([folder], metrics_port=0) as running:
        yield running


def ask(server: EmbeddedServer, prompts: Sequence[str], request_id: str = "") -> Answer:
    """One SEG for each prompt, sampled over eight steps."""
    items = [
        {"bbox": box, "prompt": prompt, "seed": seed}
        for seed, (box, prompt) in enumerate(zip(BOXES, prompts, strict=False))
    ]
    request = {
        "pipeline": "sd15",
        "steps": 8,
        "guide_size": 64,
        "max_size": 64,
        "crop_factor": 1.0,
        "image": {"encoding": "raw", "shape": PICTURE.shape},
        "segs": {"items": items},
        "paste": {"feather": 0},
        "output": {"image": "raw"},
    }
    text = InferInput("request", [1], "BYTES")
    text.set_data_from_numpy(np.array([json.dumps(request).encode()], dtype=object))
    image = InferInput("image", [PICTURE.size], "UINT8")
    image.set_data_from_numpy(PICTURE.reshape(-1))
    with InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(
            "segs_detailer", [text, image], request_id=request_id, client_timeout=120
        )
    report = json.loads(answer.as_numpy("report").tobytes())
    return Answer(report["segs"], answer.as_numpy("detailed_image").reshape(PICTURE.shape))


def test_the_others_get_the_pictures_that_they_get_alone(poisoned: EmbeddedServer) -> None:
    asked = [
        ("a face", NOT_A_NUMBER, "a hat"),
        ("eyes", "hair"),
        (NARROW, "a hand"),
        ("a (smiling:1.2) face",),
        ("a hat", "a hat", NOT_A_NUMBER),
    ]
    spoiled = {NOT_A_NUMBER, NARROW}
    plain = [ask(poisoned, ["plain" if p in spoiled else p for p in prompts]) for prompts in asked]
    before = batches_shared(poisoned, 3)
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda prompts: ask(poisoned, prompts), asked))
    for prompts, one, among in zip(asked, plain, together, strict=True):
        assert one.statuses == ["enhanced"] * len(prompts)
        for (x1, y1, x2, y2), prompt, seg in zip(BOXES, prompts, among.segs, strict=False):
            found, kept = (each.picture[y1:y2, x1:x2].astype(int) for each in (among, one))
            if prompt in spoiled:
                assert seg["status"] == "failed"
                np.testing.assert_array_equal(found, PICTURE[y1:y2, x1:x2])
            else:
                assert seg["status"] == "enhanced"
                assert np.abs(found - kept).max() <= 2
    wait_until(lambda: batches_shared(poisoned, 3) > before)


def test_a_failed_seg_says_where_the_log_explains_it(poisoned: EmbeddedServer) -> None:
    answer = ask(poisoned, ("a face", NOT_A_NUMBER, NARROW), "told")
    assert answer.statuses == ["enhanced", "failed", "failed"]
    not_finite, narrow = (seg["error"] for seg in answer.segs[1:])
    assert not_finite["message"].startswith("its values became NaN or infinite")
    for error in (not_finite, narrow):
        assert error["code"] == "INTERNAL"
        assert error["incident"] in error["message"]
        assert not re.search(r"\.py|/|0x|sd15", error["message"])
        told = rf"incident {error['incident']}, request 'told', segs\.[12]"
        wait_until(functools.partial(_is_logged, poisoned, told))


def _is_logged(server: EmbeddedServer, pattern: str) -> bool:
    return re.search(pattern, server.tail(500)) is not None


@pytest.mark.parametrize("prompts", [(NOT_A_NUMBER,), (NOT_A_NUMBER, NARROW)])
def test_where_every_seg_failed_the_request_has_failed(
    poisoned: EmbeddedServer, prompts: Sequence[str]
) -> None:
    with pytest.raises(InferenceServerException) as failure:
        ask(poisoned, prompts, "all-failed")
    detail = ErrorDetail.from_status_message(failure.value.message())
    assert detail is not None
    assert (detail.code, detail.request_id) == ("INTERNAL", "all-failed")
    incident = detail.message.rpartition(" ")[2]
    wait_until(lambda: _is_logged(poisoned, f"incident {incident}, request 'all-failed'"))
    assert ask(poisoned, ("a face",)).statuses == ["enhanced"]
