"""The judge itself: what it lets pass, and what not."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.calls import SHARES
from tests.fuzz.documents import dumps, hostile, is_cheap, valid
from tests.fuzz.runner import Tally
from tests.fuzz.verdicts import HANG_S, Outcome, Verdict, judge


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        ("OK", "", "answered"),
        ("INVALID_ARGUMENT", "steps: too large", "refused"),
        ("CANCELLED", "the request's time ran out", "late"),
        ("INTERNAL", "internal error; the log has incident 0123456789ab", "failed"),
        ("INTERNAL", "sd15_unet: internal error 0123456789ab", "failed"),
        ("INTERNAL", "Stub process 'sd15_unet_0_0' is not healthy.", "anonymous"),
        ("UNKNOWN", "", "anonymous"),
        ("INTERNAL", "Unable to parse request", "foreign"),
        ("INTERNAL", "batch size 77 for 'sd15_unet_0_0', max allowed is 16", "foreign"),
        ("INVALID_ARGUMENT", 'File "/srv/model.py", line 3', "leak"),
        ("INTERNAL", "incident 0123456789ab in /tmp/x", "leak"),
        ("UNAVAILABLE", "failed to connect to all addresses", "gone"),
    ],
)
def test_verdicts(code: str, text: str, verdict: Verdict) -> None:
    assert judge(Outcome(code, text, 0.01), b"") == verdict


def test_what_a_client_sent_itself_is_no_leak() -> None:
    outcome = Outcome("INVALID_ARGUMENT", "unknown pipeline '/tmp/x'", 0.01)
    assert judge(outcome, b'{"pipeline": "/tmp/x"}') == "refused"


def test_no_answer_in_time_is_a_hang() -> None:
    assert judge(Outcome("DEADLINE_EXCEEDED", "", HANG_S), b"") == "hang"


def test_a_tally_counts() -> None:
    tally = Tally(refusals_s=[0.1, 0.2, 0.3])
    tally.verdicts.update(["refused", "refused", "answered"])
    assert (tally.count, tally.percentile(50)) == (3, 0.2)
    assert sum(SHARES.values()) == 100


def test_documents_are_the_seeds_alone_and_mostly_no_requests() -> None:
    made = [hostile(random.Random(n), valid(random.Random(n), "sd15")) for n in range(200)]
    assert made == [hostile(random.Random(n), valid(random.Random(n), "sd15")) for n in range(200)]
    assert len(set(made)) > 190
    assert not is_cheap(
        dumps({**valid(random.Random(1), "sd15"), "steps": 10_000, "batch_size": 9})
    )
