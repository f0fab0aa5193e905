"""Several servers as one: who gets what, and what is tried elsewhere. When is what
test_client_retries.py is about."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from fake_world import BROKEN, DEAD, LOST, TOO_LATE, Clock, World, refusal

from segs_client import DeadlineExceeded, InvalidRequest, ServerError, ServerUnavailable
from segs_client.contract import DetailRequest
from segs_client.exchange import ClientResponse
from segs_client.servers import Servers
from segs_client.work import estimated_work


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.instead(monkeypatch)


def test_what_is_not_unavailable_is_not_repeated() -> None:
    world = World({"a": TOO_LATE, "b": "fine"})
    with pytest.raises(DeadlineExceeded) as caught:
        world.run()
    assert caught.value.request_id == "id"
    assert (world.asked, world.told) == (["a"], [])


def test_a_refused_request_goes_elsewhere_at_once() -> None:
    world = World({"a": refusal(5.0), "b": "fine"}, rounds=0)
    assert world.run() == ClientResponse("fine", "b", 2)
    assert world.pauses == []
    (told,) = world.told
    assert (told.url, told.tries, told.pause_s, told.request_id) == ("a", 1, 0.0, "id")
    assert told.error.message == "the server is stopping"


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


def test_a_failed_server_gets_nothing_until_it_says_that_it_is_ready(clock: Clock) -> None:
    world = World({"a": refusal(9.0), "b": "fine"})
    assert world.run().url == "b"
    assert [world.run().url for _ in range(4)] == ["b"] * 4
    assert world.asked == ["a", "b", "b", "b", "b", "b"]
    assert world.probed == []
    clock.now_s += 9.1
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
