"""What prepare and composite have in common: each request gets one response, whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segs_client.contract import ContractError, ErrorDetail
from tests.triton_models import pb_utils
from tests.triton_models.pb_utils import Request
from triton_models import environment, stage_model
from triton_models.request_registry import RequestRegistry
from triton_models.stage_model import StageModel, Work
from triton_models.state import Heartbeat


class Lanes:
    """Work lanes whose jobs a test runs."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], object], int, float]] = []

    def put(self, work: Callable[[], object], size_bytes: int = 0, weight: float = 1.0) -> None:
        self.jobs.append((work, size_bytes, weight))

    def run(self) -> tuple[int, float]:
        """Runs the next job; its size and weight."""
        work, size_bytes, weight = self.jobs.pop(0)
        work()
        return size_bytes, weight


class Model(StageModel):
    """Answers the id of each request in capitals; ids say what goes wrong."""

    name = "stage"

    def begin(self, request: Any, deadline_s: float | None) -> Work:
        self.began = [*getattr(self, "began", []), request.request_id()]
        self.deadline_s = deadline_s
        if request.request_id() == "wrong":
            raise ContractError(ErrorDetail(code="INVALID_ARGUMENT", message="steps: too many"))
        if request.request_id() == "begin":
            raise MemoryError("no room at /a/path")
        return Work(lambda: self._finish_one(request), 1234, 4.0)

    def _finish_one(self, request: Any) -> Any:
        if request.request_id() == "run":
            raise ValueError("broken at /a/path")
        if request.request_id() == "outputs":
            return 5
        return {"out": request.request_id().upper().encode()}


@pytest.fixture
def lanes() -> Lanes:
    return Lanes()


@pytest.fixture
def registry(state_folder: Path) -> RequestRegistry:
    return RequestRegistry.of_environment()


@pytest.fixture
def model(registry: RequestRegistry, lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(stage_model, "configure_logging", lambda: None)
    monkeypatch.setattr(stage_model, "WorkLanes", lambda: lanes)
    monkeypatch.setattr(Heartbeat, "start_thread", lambda self: None)
    made = Model()
    made.initialize({"model_instance_name": "stage_0_0"})
    return made


def asked(name: str, token: str = "t", **fields: Any) -> Request:
    return Request(name=name, given=json.dumps({"token": token}), **fields)


def answer(request: Request) -> dict[str, Any] | str:
    """The one response: its tensors, or the code of its error."""
    (response,), (is_final,) = request.sender.responses, request.sender.is_final
    assert is_final
    error = response.error()
    if error is None:
        return response.named()
    detail = ErrorDetail.from_status_message(error.message())
    assert detail is not None
    assert "/a/path" not in error.message()
    return detail.code


def test_execute_returns_at_once_and_notes_the_process(
    model: Model, lanes: Lanes, registry: RequestRegistry
) -> None:
    requests = [asked(name, token=name) for name in "abc"]
    model.execute(requests)
    assert [registry.process_of(each) is not None for each in "abc"] == [True] * 3
    assert not hasattr(model, "began")
    for _ in range(3):
        assert lanes.run() == (0, 1.0)
    assert model.began == ["a", "b", "c"]
    assert all(request.sender.responses == [] for request in requests)
    for _ in range(3):
        assert lanes.run() == (1234, 4.0)
    assert [answer(request) for request in requests] == [
        {"out": [each]} for each in (b"A", b"B", b"C")
    ]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("wrong", "INVALID_ARGUMENT"),
        ("begin", "INTERNAL"),
        ("run", "INTERNAL"),
        ("outputs", "INTERNAL"),
    ],
)
def test_each_request_is_answered_whatever_raises(
    model: Model, lanes: Lanes, name: str, code: str
) -> None:
    request = asked(name)
    model.execute([request])
    while lanes.jobs:
        lanes.run()
    assert answer(request) == code


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_a_cancelled_request_is_not_worked_on(
    model: Model, lanes: Lanes, registry: RequestRegistry, jobs_before: int
) -> None:
    request = asked("a")
    model.execute([request])
    for _ in range(jobs_before):
        lanes.run()
    registry.cancel("t")
    lanes.run()
    assert answer(request) == "CANCELLED"
    assert lanes.jobs == []
    assert getattr(model, "began", []) == ["a"] * jobs_before


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_a_late_request_is_not_worked_on(
    model: Model, lanes: Lanes, monkeypatch: pytest.MonkeyPatch, jobs_before: int
) -> None:
    request = asked("a", timeout_us=2_000_000)
    model.execute([request])
    now_s = time.time()
    for _ in range(jobs_before):
        lanes.run()
        assert model.deadline_s == pytest.approx(now_s + 2.0, abs=1.0)
    monkeypatch.setattr("triton_models.stage_model.time.time", lambda: now_s + 3.0)
    lanes.run()
    assert answer(request) == "DEADLINE_EXCEEDED"
    assert getattr(model, "began", []) == ["a"] * jobs_before


def test_a_call_from_outside_is_refused(
    model: Model, lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "secret")
    request = Request(name="a")
    model.execute([request])
    lanes.run()
    assert answer(request) == "UNAUTHENTICATED"
    assert not hasattr(model, "began")


def test_a_request_without_parameters_is_worked_on(model: Model, lanes: Lanes) -> None:
    request = Request(name="a", given="[")
    model.execute([request])
    lanes.run()
    lanes.run()
    assert answer(request) == {"out": [b"A"]}
    assert isinstance(request.sender.responses[0], pb_utils.InferenceResponse)
