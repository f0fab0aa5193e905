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
from triton_models.request_cost import LARGE_BYTES
from triton_models.request_registry import RequestRegistry
from triton_models.stage_model import StageModel, StageWork
from triton_models.state import Heartbeat


class Jobs:
    """What was given to the model's pools of threads; a test runs it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Callable[[], object]]] = []

    def pool(self, threads: int, name: str, *_: object) -> Pool:
        return Pool(self, name)

    def run(self) -> str:
        """Runs the next job; the name of its pool."""
        name, work = self.waiting.pop(0)
        work()
        return name


class Pool:
    """Stands in for an executor."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self._jobs = jobs
        self._name = name

    def submit(self, work: Callable[..., object], *arguments: object) -> None:
        self._jobs.waiting.append((self._name, lambda: work(*arguments)))


class Model(StageModel):
    """Answers the id of each request in capitals; ids say what goes wrong."""

    name = "stage"

    def begin(self, request: Any, deadline_s: float | None) -> StageWork:
        self.began = [*getattr(self, "began", []), request.request_id()]
        self.deadline_s = deadline_s
        if request.request_id() == "wrong":
            raise ContractError(ErrorDetail(code="INVALID_ARGUMENT", message="steps: too many"))
        if request.request_id() == "begin":
            raise MemoryError("no room at /a/path")
        large = request.request_id() == "large"
        return StageWork(lambda: self._finish_one(request), LARGE_BYTES + large)

    def _finish_one(self, request: Any) -> Any:
        if request.request_id() == "run":
            raise ValueError("broken at /a/path")
        if request.request_id() == "outputs":
            return 5
        return {"out": request.request_id().upper().encode()}


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def registry(state_folder: Path) -> RequestRegistry:
    return RequestRegistry.of_environment()


@pytest.fixture
def model(registry: RequestRegistry, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(stage_model, "configure_logging", lambda: None)
    monkeypatch.setattr(stage_model, "ThreadPoolExecutor", jobs.pool)
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
    model: Model, jobs: Jobs, registry: RequestRegistry
) -> None:
    names = ("a", "large", "c")
    requests = [asked(name, token=name) for name in names]
    model.execute(requests)
    assert [registry.process_of(each) is not None for each in names] == [True] * 3
    assert not hasattr(model, "began")
    assert [jobs.run() for _ in names] == ["small"] * 3
    assert model.began == list(names)
    assert all(request.sender.responses == [] for request in requests)
    assert [jobs.run() for _ in names] == ["small", "large", "small"]
    assert [answer(request) for request in requests] == [
        {"out": [each]} for each in (b"A", b"LARGE", b"C")
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
    model: Model, jobs: Jobs, name: str, code: str
) -> None:
    request = asked(name)
    model.execute([request])
    while jobs.waiting:
        jobs.run()
    assert answer(request) == code


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_a_cancelled_request_is_not_worked_on(
    model: Model, jobs: Jobs, registry: RequestRegistry, jobs_before: int
) -> None:
    request = asked("a")
    model.execute([request])
    for _ in range(jobs_before):
        jobs.run()
    registry.cancel("t")
    jobs.run()
    assert answer(request) == "CANCELLED"
    assert jobs.waiting == []
    assert getattr(model, "began", []) == ["a"] * jobs_before


@pytest.mark.parametrize("jobs_before", [0, 1])
def test_a_late_request_is_not_worked_on(
    model: Model, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, jobs_before: int
) -> None:
    request = asked("a", timeout_us=2_000_000)
    model.execute([request])
    now_s = time.time()
    for _ in range(jobs_before):
        jobs.run()
        assert model.deadline_s == pytest.approx(now_s + 2.0, abs=1.0)
    monkeypatch.setattr("triton_models.stage_model.time.time", lambda: now_s + 3.0)
    jobs.run()
    assert answer(request) == "DEADLINE_EXCEEDED"
    assert getattr(model, "began", []) == ["a"] * jobs_before


@pytest.mark.parametrize("name", ["a", "../drain", "{}/a", "a\0"])
def test_a_call_from_outside_is_refused_and_writes_no_file(
    model: Model, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, state_folder: Path, name: str
) -> None:
    monkeypatch.setenv(environment.INTERNAL_TOKEN, "secret")
    before = sorted(state_folder.rglob("*"))
    request = asked("a", token=name.format(state_folder))
    model.execute([request])
    jobs.run()
    assert answer(request) == "UNAUTHENTICATED"
    assert not hasattr(model, "began")
    assert sorted(state_folder.rglob("*")) == before


def test_a_request_without_parameters_is_worked_on(model: Model, jobs: Jobs) -> None:
    request = Request(name="a", given="[")
    model.execute([request])
    jobs.run()
    jobs.run()
    assert answer(request) == {"out": [b"A"]}
    assert isinstance(request.sender.responses[0], pb_utils.InferenceResponse)
