"""When a request is sent again.

Requests may always be repeated: a server keeps nothing of them, and the same request with the same
seed makes the same picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from segs_client.errors import LEAST_WAIT_S, InvalidRequest, ServerUnavailable

_jitter = random.Random()  # of waiting times alone: nothing of a picture depends on it


@dataclass(frozen=True)
class Retry:
    """A request that is going to be sent again.

    Attributes:
        request_id: the same for all tries.
        tries: how many have failed by now.
        url: the address of the one that failed just now.
        error: what it ended with.
        pause_s: until the next try; 0 where another server is asked at once.
    """

    request_id: str
    tries: int
    url: str
    error: ServerUnavailable
    pause_s: float


@dataclass(frozen=True)
class Retries:
    """What is done where a server is UNAVAILABLE: overloaded, stopping, lost or not reachable.

    Each other address is asked at once. When all have been, the next round over them comes after a
    pause, of which there are two kinds:

    - A server that refuses the request (overloaded, stopping) gives a time to try again. The pause
      is as long, 0.5 s at least, and a random share of as much again, of ``max_pause_s`` at most,
      so that a crowd spreads. There may be any number of such rounds until the request's time-out.
    - Else it is 0.5 s and a random share of ``first_pause_s``, of twice that before the next one,
      and so on up to ``max_pause_s``; and ``rounds`` bounds how many there are.

    Where some servers refuse and others fail, the shorter one counts. What is left of the time-out
    goes along with each try. A random share takes at most half of what the pause leaves of it;
    where the pause would leave less than 0.5 s, the error is raised at once.

    Args:
        rounds: that may follow the first where servers fail; 0: other addresses are asked, none a
            second time, whatever their error.
        first_pause_s: see above; seconds.
        max_pause_s: see above; seconds.
        losses: how often a server may be lost while it has this request, which may be the cause.
        on_retry: called before each further try, in the thread (or event loop) of the call.

    Raises:
        InvalidRequest: a number is negative.
    """

    rounds: int = 7
    first_pause_s: float = 0.25
    max_pause_s: float = 15.0
    losses: int = 3
    on_retry: Callable[[Retry], None] | None = None

    def __post_init__(self) -> None:
        names: tuple[Literal["rounds", "first_pause_s", "max_pause_s", "losses"], ...]
        names = ("rounds", "first_pause_s", "max_pause_s", "losses")
        for name in names:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InvalidRequest(
                    f"retries.{name}: out of range (got {value!r}); allowed: 0 or more",
                    field=f"retries.{name}",
                    value=repr(value),
                    allowed="0 or more",
                )

    def pause_s(
        self, failed_rounds: int, refusals: Sequence[ServerUnavailable], left_s: float
    ) -> float | None:
        """Seconds until the next round.

        Args:
            failed_rounds: how many there were in which a server failed, and did not just refuse.
            refusals: the last round's, at least one.
            left_s: seconds until the request's time-out.

        Returns:
            None where there is no further round.
        """
        said = [each.retry_after_s or LEAST_WAIT_S for each in refusals if each.is_refusal]
        failed = [each.retry_after_s or LEAST_WAIT_S for each in refusals if not each.is_refusal]
        pauses = []  # the least, and the most that comes on top
        if said:
            pauses.append((min(said), min(*said, self.max_pause_s)))
        if failed and failed_rounds <= self.rounds:
            grown_s = self.first_pause_s * 2.0 ** min(failed_rounds - 1, 60)
            pauses.append((min(failed), min(grown_s, self.max_pause_s)))
        pauses = [each for each in pauses if each[0] + LEAST_WAIT_S <= left_s]
        if self.rounds == 0 or not pauses:
            return None
        least_s, more_s = min(pauses)
        return least_s + _jitter.uniform(0.0, min(more_s, (left_s - least_s) / 2))
