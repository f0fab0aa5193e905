"""The bound on live SEGs, and so on the memory of latents and sampler states."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sampling.policy import Requester


@dataclass(eq=False)
class _Turn:
    requester: Requester
    given: asyncio.Future[None]


@dataclass
class Slots:
    """Places for SEGs, shared among requests.

    A request's first SEG never waits, so that a large request cannot block others. A free place
    goes to the waiting request that holds the fewest; among equals, to the oldest.

    Args:
        limit: live SEGs, plus at most one for each request.
    """

    limit: int
    held: Counter[Requester] = field(default_factory=Counter)
    _waiting: list[_Turn] = field(default_factory=list)

    @property
    def live(self) -> int:
        """Places in use."""
        return self.held.total()

    @property
    def waiting(self) -> int:
        """SEGs that wait for a place."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def place(self, requester: Requester) -> AsyncIterator[None]:
        """Waits for a place and holds it inside the context."""
        if self.live < self.limit or not self.held[requester]:
            self.held[requester] += 1
        else:
            await self._wait(requester)
        try:
            yield
        finally:
            self._free(requester)

    async def _wait(self, requester: Requester) -> None:
        turn = _Turn(requester, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        try:
            await turn.given
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            else:  # the place was given before the cancellation
                self._free(requester)
            raise

    def _free(self, requester: Requester) -> None:
        self.held[requester] -= 1
        if not self.held[requester]:
            del self.held[requester]
        # A turn that was just cancelled is still in the list.
        waiting = [turn for turn in self._waiting if not turn.given.done()]
        while waiting and self.live < self.limit:
            turn = min(waiting, key=lambda each: self.held[each.requester])
            waiting.remove(turn)
            self._waiting.remove(turn)
            self.held[turn.requester] += 1
            turn.given.set_result(None)
