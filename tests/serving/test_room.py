"""Who gets in at the door."""

from __future__ import annotations

import contextlib

import pytest

from preprocessing.limits import DEFAULT, Limits
from preprocessing.plan import OverloadedError
from triton_models.in_flight import Room


def test_bytes_of_all_are_bounded() -> None:
    room = Room(Limits(max_message_bytes=100))
    with room.taken(60):
        with pytest.raises(OverloadedError, match="try again"), room.taken(41):
            pass
        with room.taken(40):
            assert (room.requests, room.held_bytes) == (2, 100)
    assert (room.requests, room.held_bytes) == (0, 0)


def test_alone_even_the_largest_gets_in() -> None:
    room = Room(Limits(max_message_bytes=100))
    with room.taken(1000), pytest.raises(OverloadedError), room.taken(1):
        pass


def test_a_request_that_fails_makes_room() -> None:
    room = Room(Limits(max_message_bytes=100))
    with pytest.raises(KeyError), room.taken(100):
        raise KeyError
    assert (room.requests, room.held_bytes) == (0, 0)


def test_their_number_is_bounded() -> None:
    room = Room(DEFAULT)
    with contextlib.ExitStack() as inside:
        for _ in range(room.places):
            inside.enter_context(room.taken(1))
        with pytest.raises(OverloadedError), room.taken(1):
            pass
    assert room.places > DEFAULT.max_requests
