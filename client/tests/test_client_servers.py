"""Several servers as one, and what is tried again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from segs_client import (
    DeadlineExceeded,
    InvalidRequest,
    Retries,
    Retry,
    ServerError,
    ServerUnavailable,
)
from segs_client.contract import DetailRequest, ErrorDetail
from segs_client.exchange import Answered, Asked, Call, Pause, inference
from segs_client.servers import Servers
from segs_client.work import estimated_work

NO_PAUSE = {"first_pause_s": 0.0, "max_pause_s": 0.0}
DEAD = InferenceServerException("failed to connect to all addresses", "StatusCode.UNAVAILABLE")
LOST = InferenceServerException("Socket closed", "StatusCode.UNAVAILABLE")
BROKEN = InferenceServerException("internal error; incident 12", "StatusCode.INTERNAL")
TOO_LATE = InferenceServerException("Deadline Exceeded", "StatusCode.DEADLINE_EXCEEDED")


def refusal(retry_after_s: float, message: str = "the server is stopping") -> Exception:
    detail = ErrorDetail(code="UNAVAILABLE", message=message, retry_after_s=retry_after_s)
    return InferenceServerException(detail.to_status_message(), "StatusCode.UNAVAILABLE")


class World:
    """What servers answer, by their addresses, and what was asked of them; no time passes."""

    def __init__(self, answers: Mapping[str, Any], timeout_s: float = 60.0, **retries: Any) -> None:
        self.answers = dict(answers)
        self.servers = Servers(tuple(answers), shuffle=lambda servers: None)
        self.told: list[Retry] = []
        self.retries = Retries(on_retry=self.told.append, **retries)
        self.asked: list[str] = []
        self.probed: list[str] = []
        self.pauses: list[float] = []
        self.timeouts: list[float] = []
        self.timeout_s = timeout_s

    def start(self, work: float = 1.0) -> Generator[Any, Any, Answered]:
        asked = Asked({"headers": {}}, "id", work, self.timeout_s)
        return inference(asked, self.servers, self.retries)

    def run(self, work: float = 1.0) -> Answered:
        program = self.start(work)
        try:
            step = next(program)
            while True:
                try:
                    led_to = self._take(step)
                except Exception as error:
                    step = program.throw(error)
                else:
                    step = program.send(led_to)
        except StopIteration as end:
            answered: Answered = end.value
            return answered

    def _take(self, step: Call | Pause) -> Any:
        if isinstance(step, Pause):
            self.pauses.append(step.seconds)
            return None
        url = self.servers.urls[step.server]
        if step.method != "infer":
            self.probed.append(url)
        else:
            self.asked.append(url)
            self.timeouts.append(step.arguments["client_timeout"])
        answer = self.answers[url]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_what_is_not_unavailable_is_not_repeated() -> None:
    world = World({"a": TOO_LATE, "b": "fine"})
    with pytest.raises(DeadlineExceeded) as caught:
        world.run()
    assert caught.value.request_id == "id"
    assert (world.asked, world.told) == (["a"], [])


def test_a_refused_request_goes_elsewhere_at_once() -> None:
    world = World({"a": refusal(5.0), "b": "fine"}, rounds=0)
    assert world.run() == Answered("fine", "b", 2)
    assert world.pauses == []
    (told,) = world.told
    assert (told.url, told.tries, told.pause_s, told.request_id) == ("a", 1, 0.0, "id")
    assert told.error.message == "the server is stopping"


def test_the_servers_word_and_the_jitter_make_the_pause() -> None:
    world = World({"a": [refusal(3.0)] * 3 + ["fine"]}, first_pause_s=1.0, max_pause_s=1.5)
    assert world.run().tries == 4
    bounds = [(3.0, 4.0), (3.0, 4.5), (3.0, 4.5)]
    assert len(world.pauses) == len(bounds)
    assert all(low <= each <= high for each, (low, high) in zip(world.pauses, bounds, strict=True))
    assert [each.pause_s for each in world.told] == world.pauses


def test_pauses_are_spread_over_all_of_their_range() -> None:
    unavailable = [ServerUnavailable("no")]
    pauses = [Retries().pause_s(3, unavailable) or 0.0 for _ in range(2000)]
    assert 0 <= min(pauses) < 0.05 and 0.95 < max(pauses) <= 1.0
    assert sum(pauses) / len(pauses) == pytest.approx(0.5, abs=0.05)
    assert (Retries(max_pause_s=4.0, rounds=2000).pause_s(2000, unavailable) or 0) <= 4.0


@pytest.mark.parametrize("rounds", [0, 2])
def test_rounds_are_bounded(rounds: int) -> None:
    world = World({"a": DEAD, "b": DEAD}, rounds=rounds, **NO_PAUSE)
    with pytest.raises(ServerUnavailable, match="failed to connect"):
        world.run()
    assert Counter(world.asked + world.probed)["a"] == rounds + 1


def test_no_pause_outlasts_the_deadline() -> None:
    world = World({"a": refusal(30.0, "overloaded")}, timeout_s=10.0)
    with pytest.raises(ServerUnavailable, match="overloaded") as caught:
        world.run()
    assert caught.value.retry_after_s == 30.0
    assert world.asked == ["a"]
    assert world.pauses == []


def test_what_is_left_of_the_time_goes_along() -> None:
    world = World({"a": [DEAD, "fine"]}, timeout_s=10.0, **NO_PAUSE)
    program = world.start()
    first = next(program)
    time.sleep(0.05)
    program.throw(DEAD)
    program.close()
    assert first.arguments["client_timeout"] == pytest.approx(10.0, abs=0.02)
    world.run()
    assert all(each <= 10.0 for each in world.timeouts)


def test_a_request_that_loses_its_servers_is_given_up() -> None:
    world = World({"a": LOST, "b": LOST, "c": LOST, "d": "fine"}, losses=2)
    with pytest.raises(ServerUnavailable) as caught:
        world.run()
    assert caught.value.is_loss
    assert len(world.asked) == 2


def test_requests_are_dealt_out_by_work() -> None:
    world = World({"a": "x", "b": "x", "c": "x"})
    under_way = [world.start(work) for work in (10.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)]
    asked = [next(program).server for program in under_way]
    assert asked.count(0) == 1  # the large one alone
    assert asked.count(1) == asked.count(2) == 3
    for program in under_way:
        with suppress(StopIteration):
            program.send("x")
    given = Counter[str]()
    for work in [7.0, 1.0, 3.0, 2.0, 5.0] * 60:  # one by one: what they were given decides
        given[world.run(work).url] += work  # type: ignore[assignment]
    assert max(given.values()) < 1.05 * min(given.values())


def test_work_under_way_is_forgotten_when_a_call_is_cancelled() -> None:
    world = World({"a": "x", "b": "x"})
    for _ in range(3):
        program = world.start(100.0)
        next(program)
        program.close()
    assert {each.under_way for each in world.servers._servers} == {0.0}


def test_a_failed_server_gets_nothing_until_it_says_that_it_is_ready() -> None:
    world = World({"a": refusal(0.15), "b": "fine"})
    assert world.run().url == "b"
    assert [world.run().url for _ in range(4)] == ["b"] * 4
    assert world.asked == ["a", "b", "b", "b", "b", "b"]
    assert world.probed == []
    time.sleep(0.16)
    world.answers["a"] = DEAD
    assert world.run().url == "b"
    assert world.probed == ["a"]  # and was not sent the picture
    world.servers._servers[0].closed_until = 0.0
    world.answers["a"] = "fine"
    assert world.run().url == "a"
    assert world.probed == ["a"] * 4
    assert {world.run().url for _ in range(2)} == {"a", "b"}  # what it missed is not made up for


def test_one_request_alone_asks_whether_a_server_is_back() -> None:
    world = World({"a": DEAD, "b": "fine"})
    world.run()
    world.servers._servers[0].closed_until = 0.0
    probing = world.start()
    assert next(probing).method == "is_server_live"
    assert next(world.start()).server == 1


def test_what_was_sent_before_tells_nothing_of_a_server_that_stops() -> None:
    world = World({"a": "fine", "b": "fine"})
    early = world.start(work=0.0)
    assert next(early).server == 0
    world.answers["a"] = refusal(5.0)
    assert world.run().tries == 2
    with pytest.raises(StopIteration):
        early.send("fine")
    assert world.servers._servers[0].failures == 1
    assert world.run().tries == 1


def test_a_server_that_fails_at_everything_does_not_attract_all() -> None:
    world = World({"a": BROKEN, "b": "fine"})
    for _ in range(3):
        with pytest.raises(ServerError):
            world.run()
    assert world.asked == ["a"] * 3
    assert [world.run().url for _ in range(5)] == ["b"] * 5
    world.servers._servers[0].closed_until = 0.0
    world.answers["a"] = "fine"
    assert world.run().url == "a"
    assert (world.servers._servers[0].errors, world.servers._servers[0].failures) == (0, 0)


def test_failures_of_one_moment_are_one() -> None:
    world = World({"a": "x"})
    programs = [world.start() for _ in range(5)]
    for program in programs:
        next(program)
    for program in programs:
        program.throw(LOST)
    assert world.servers._servers[0].failures == 1


@pytest.mark.parametrize("urls", [[], "", ["a", "a"], ["a", ""]])
def test_addresses_are_checked(urls: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Servers(urls)
    assert caught.value.field == "url"


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"max_pause_s": float("nan")}, {"losses": -1}])
def test_retries_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="allowed: 0 or more"):
        Retries(**wrong)


def work_of(*items: dict[str, Any], **options: Any) -> float:
    return estimated_work(
        DetailRequest.model_validate({"pipeline": "p", "segs": {"items": items}, **options})
    )


def test_work_grows_with_segs_steps_passes_and_pixels() -> None:
    seg = {"bbox": (0, 0, 100, 100)}
    base = work_of(seg, steps=17)
    assert work_of() == pytest.approx(0.1)
    assert work_of(seg, seg, steps=17) - 0.1 == pytest.approx(2 * (base - 0.1))
    assert work_of(seg, steps=37) - 0.1 == pytest.approx(2 * (base - 0.1))
    assert work_of({**seg, "steps": 37}, steps=17) == work_of(seg, steps=37)
    assert work_of(seg, steps=17, cycle=3, batch_size=2) - 0.1 == pytest.approx(6 * (base - 0.1))
    assert work_of({**seg, "skip": True}) == pytest.approx(0.1)
    assert work_of(seg, steps=17, max_size=384) - 0.1 == pytest.approx((base - 0.1) / 4)


def test_work_knows_guide_size_and_max_size() -> None:
    seg = {"bbox": (100, 100, 164, 164), "crop_region": (68, 68, 196, 196)}
    scaled = (1024 / 1e6) * 1024 * (20 + 3)
    assert work_of(seg, steps=20, max_size=2048) - 0.1 == pytest.approx(scaled)
    assert work_of(seg, steps=20, max_size=2048, guide_size_for=False) - 0.1 == (
        pytest.approx(scaled / 4)
    )
