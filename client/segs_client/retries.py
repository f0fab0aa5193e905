"""Retries of a request.

Requests may always be repeated: a server keeps no state of them, and the same request with the same
seed makes the same picture.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from segs_client.errors import LEAST_WAIT_S, InvalidRequest, ServerUnavailable

_jitter = random.Random()  # for waiting times only: no picture depends on it


@dataclass(frozen=True)
class Retry:
    """A further try of a request.

    Attributes:
        request_id: the same for all tries.
        tries: the number of failed tries.
        url: the server of the last try.
        error: of the last try.
        pause_s: until the next try; 0 if it is sent to another server at once.
    """

    request_id: str
    tries: int
    url: str
    error: ServerUnavailable
    pause_s: float


@dataclass(frozen=True)
class Retries:
    """The retries if a server is UNAVAILABLE: overloaded, stopping, lost or not reachable.

    The request is first sent to each other address, without a pause. The next round over all
    addresses follows after a pause:

    - If a server refuses the request (overloaded, stopping), it gives a time to try again. The
      pause is this time, at least 0.5 s, plus a random part of it, at most of ``max_pause_s``, so
      that clients spread. The number of these rounds is limited by the request's time-out only.
    - If a server fails, the pause is 0.5 s plus a random part of ``first_pause_s``, doubled with
      each round up to ``max_pause_s``. The number of these rounds is at most ``rounds``.

    If some servers refuse and others fail, the shorter pause is used. Each try gets the remaining
    time as its time-out. The random part is at most half of the time that remains after the pause.
    If less than 0.5 s would remain, the error is raised at once.

    Args:
        rounds: further rounds if servers fail; 0: each address is tried once, whatever the error.
        first_pause_s: see above; seconds.
        max_pause_s: see above; seconds.
        losses: tries during which a server may be lost: the request may be the cause.
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
            failed_rounds: rounds in which a server failed, and did not only refuse.
            refusals: of the last round, at least one.
            left_s: seconds until the request's time-out.

        Returns:
            None if there is no further round.
        """
        refused = [each.retry_after_s or LEAST_WAIT_S for each in refusals if each.is_refusal]
        failed = [each.retry_after_s or LEAST_WAIT_S for each in refusals if not each.is_refusal]
        pauses = []  # the least pause, and the greatest random part
        if refused:
            pauses.append((min(refused), min(*refused, self.max_pause_s)))
        if failed and failed_rounds <= self.rounds:
            grown_s = self.first_pause_s * 2.0 ** min(failed_rounds - 1, 60)
            pauses.append((min(failed), min(grown_s, self.max_pause_s)))
        pauses = [each for each in pauses if each[0] + LEAST_WAIT_S <= left_s]
        if self.rounds == 0 or not pauses:
            return None
        least_s, more_s = min(pauses)
        return least_s + _jitter.uniform(0.0, min(more_s, (left_s - least_s) / 2))
