"""Places for SEGs, shared out among requests."""

from __future__ import annotations

import asyncio

from sampling.policy import Requester
from sampling.slots import Slots


class Crowd:
    """Tasks that hold a place until they are let go, and the order in which they got it."""

    def __init__(self, limit: int) -> None:
        self.slots = Slots(limit)
        self.inside: list[str] = []
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, requester: Requester) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, requester))
        await settle()

    def let_go(self, name: str) -> None:
        self._leave[name].set()

    async def go(self, name: str) -> None:
        self.let_go(name)
        await self.tasks[name]
        await settle()

    async def _hold(self, name: str, requester: Requester) -> None:
        async with self.slots.place(requester):
            self.inside.append(name)
            await self._leave[name].wait()
            self.inside.remove(name)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_request_waits_beyond_the_limit_but_never_with_its_first() -> None:
    async def main() -> None:
        crowd, large, small = Crowd(2), Requester(), Requester()
        for name in ("l1", "l2", "l3"):
            await crowd.come(name, large)
        assert crowd.inside == ["l1", "l2"]
        await crowd.come("s1", small)
        assert crowd.inside == ["l1", "l2", "s1"]
        assert crowd.slots.live == 3

    asyncio.run(main())


def test_a_free_place_goes_to_who_has_the_fewest() -> None:
    async def main() -> None:
        crowd, large, small = Crowd(3), Requester(), Requester()
        for name in ("l1", "l2", "l3", "l4"):
            await crowd.come(name, large)
        await crowd.come("s1", small)
        await crowd.come("s2", small)
        assert crowd.inside == ["l1", "l2", "l3", "s1"]
        await crowd.go("l1")  # still as many as the limit
        assert crowd.inside == ["l2", "l3", "s1"]
        await crowd.go("s1")
        assert crowd.inside == ["l2", "l3", "s2"]  # l4 came first, but its request holds two
        await crowd.go("l2")
        assert crowd.inside == ["l3", "s2", "l4"]

    asyncio.run(main())


def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    async def main() -> None:
        crowd, large = Crowd(1), Requester()
        for name in ("l1", "l2", "l3"):
            await crowd.come(name, large)
        crowd.tasks["l2"].cancel()
        await settle()
        await crowd.go("l1")
        assert crowd.inside == ["l3"]
        await crowd.go("l3")
        assert crowd.slots.live == 0
        assert not crowd.slots.held

    asyncio.run(main())


def test_who_is_cancelled_as_it_gets_its_place_gives_it_on() -> None:
    async def main() -> None:
        crowd, large = Crowd(1), Requester()
        for name in ("l1", "l2", "l3"):
            await crowd.come(name, large)
        crowd.let_go("l1")
        await asyncio.sleep(0)  # l2's place is given, l2 has not run yet
        crowd.tasks["l2"].cancel()
        await settle()
        assert crowd.inside == ["l3"]

    asyncio.run(main())


def test_a_place_is_not_given_to_who_was_cancelled_in_the_same_moment() -> None:
    async def main() -> None:
        crowd, requester = Crowd(2), Requester()
        for name in ("1", "2", "3", "4"):
            await crowd.come(name, requester)
        crowd.let_go("1")
        crowd.tasks["3"].cancel()
        await crowd.tasks["1"]
        await settle()
        assert crowd.tasks["3"].cancelled()
        assert crowd.inside == ["2", "4"]
        for name in ("2", "4"):
            await crowd.go(name)
        assert crowd.slots.live == 0
        assert not crowd.slots.held

    asyncio.run(main())
