"""When a request is sent again.

Requests may always be repeated: a server keeps nothing of them, and the same request with the same
seed makes the same picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from segs_client.errors import InvalidRequest, ServerUnavailable

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
    pause: a random share of ``first_pause_s`` (full jitter), of twice that before the next one, and
    so on up to ``max_pause_s``; and not before the time at which a server said that it may have
    room. All this ends with the request's time-out: what is left of it goes along with each try,
    and a pause that would outlast it is not begun.

    Args:
        rounds: that may follow the first; 0: other addresses are asked, none a second time.
        first_pause_s: see above; seconds.
        max_pause_s: see above; seconds.
        losses: how often a server may be lost while it has this request, which may be the cause.
        on_retry: told of each further try, in the thread (or event loop) of the call.

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

    def pause_s(self, round_number: int, refusals: Sequence[ServerUnavailable]) -> float | None:
        """Seconds until the next round.

        Args:
            round_number: how many rounds there were.
            refusals: the last one's, at least one.

        Returns:
            None where there is no further round.
        """
        if round_number > self.rounds:
            return None
        most_s = min(self.first_pause_s * 2.0 ** min(round_number - 1, 60), self.max_pause_s)
        room_s = min(refusal.retry_after_s or 0.0 for refusal in refusals)
        return room_s + _jitter.uniform(0.0, most_s)
