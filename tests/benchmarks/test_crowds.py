"""How benchmarks.crowds counts, and what it makes of what it has counted."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.crowds import pictures
from benchmarks.crowds.__main__ import chosen, command_line
from benchmarks.crowds.alone import Comparison, compare, difference, differing, essence
from benchmarks.crowds.calls import Answer, Ask, ask_once, ask_patiently, follow
from benchmarks.crowds.crowd import Outcome, Target
from benchmarks.crowds.ends import (
    LEFT,
    NO_ANSWER,
    NO_RETRY,
    OK,
    REFUSED,
    SEG_FAILED,
    UNREADABLE,
    end_of,
    lost,
)
from benchmarks.crowds.modes import FULL, MODES, SHORT, BadPng, Honest, Leaver
from benchmarks.crowds.result import (
    BEGIN,
    END,
    Result,
    broken,
    late,
    to_json,
    to_markdown,
    write_report,
)
from benchmarks.crowds.together import Aside, Together
from benchmarks.crowds.watch import HEALTH_S, Seen, ServerWatch
from segs_client.contract import ErrorDetail
from serving.health import Health, HealthServer
from tests.benchmarks.scripted_server import DETAILS, REPORT, scripted
from tests.waiting import wait_until

LATER, NEVER, WRONG = DETAILS["later"], DETAILS["never"], DETAILS["wrong"]
NOW = ErrorDetail(code="UNAVAILABLE", message="full", retry_after_s=0)
GOOD = Result("honest", 2, 1, 3.0, {OK: 2}, {OK: 1}, 0.5)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with scripted() as address:
        yield address


def ask(request_id: str) -> Ask:
    return Ask(request_id, {})


def asks(*request_ids: str) -> list[Ask]:
    return [ask(request_id) for request_id in request_ids]


@pytest.mark.parametrize(
    ("code", "detail", "end"),
    [
        ("UNAVAILABLE", LATER, REFUSED),
        ("UNAVAILABLE", NEVER, NO_RETRY),
        ("UNAVAILABLE", NOW, NO_RETRY),
        ("UNAVAILABLE", None, NO_RETRY),
        ("DEADLINE_EXCEEDED", None, NO_ANSWER),
        (
            "DEADLINE_EXCEEDED",
            ErrorDetail(code="DEADLINE_EXCEEDED", message=""),
            "DEADLINE_EXCEEDED",
        ),
        ("INVALID_ARGUMENT", WRONG, "INVALID_ARGUMENT"),
        ("INTERNAL", None, "INTERNAL"),
    ],
)
def test_an_end_has_a_name(code: str, detail: ErrorDetail | None, end: str) -> None:
    assert end_of(code, detail) == end


def test_lost_are_those_whom_the_server_let_down() -> None:
    let_down = (NO_ANSWER, NO_RETRY, SEG_FAILED, UNREADABLE, "INTERNAL", "UNKNOWN")
    assert lost({OK: 5, REFUSED: 3, LEFT: 1, "INVALID_ARGUMENT": 2}) == 0
    assert lost({OK: 5, **dict.fromkeys(let_down, 2)}) == 12


def test_every_caller_of_a_crowd_is_counted_once(url: str) -> None:
    ids = ("fine-1", "fine-2", "later-1", "never-1", "lost-1", "wrong-1", "broken-1", "failed-1")
    with Together(url, asks(*ids, "silent-1", "silent-2"), 2.0, kept=(1,)) as together:
        together.wait_for(len(ids), 10.0)
        assert together.leave(8)
        assert not together.leave(0)
        together.wait()
        ends = together.ends()
    assert ends == {
        OK: 2, REFUSED: 1, NO_RETRY: 2, "INVALID_ARGUMENT": 1, "INTERNAL": 1, SEG_FAILED: 1,
        LEFT: 1, NO_ANSWER: 1,
    }  # fmt: skip
    assert together.answers[1].pixels and not together.answers[0].pixels


def test_what_is_sent_beside_a_crowd_knows_its_place(url: str) -> None:
    with Together(url, asks("fine-1", "silent-1"), 2.0) as together:
        together.wait_for(1, 10.0)
        aside = together.beside(ask("wrong-2"), 5.0)
        assert (aside.end, aside.sent_after, aside.came_after) == ("INVALID_ARGUMENT", 1, 1)
        together.leave(1)
        together.wait()


@pytest.mark.parametrize(
    ("request_id", "end"),
    [
        ("fine-1", OK),
        ("later-2", REFUSED),
        ("never-2", NO_RETRY),
        ("broken-2", "INTERNAL"),
        ("message-1", "UNKNOWN"),
        ("ended-1", NO_ANSWER),
    ],
)
def test_a_stream_ends_as_a_call_would(url: str, request_id: str, end: str) -> None:
    assert follow(url, ask(request_id), 5.0).end == end


def test_only_a_patient_caller_comes_again(url: str) -> None:
    assert ask_once(url, ask("later-3"), 5.0).end == REFUSED
    assert ask_patiently(url, ask("later-4"), 5.0).end == OK


def test_nobody_there_is_lost() -> None:
    assert ask_once("127.0.0.1:1", ask("fine"), 5.0).end == NO_RETRY


def test_pictures_are_compared_byte_by_byte() -> None:
    assert difference(b"\x00\x80\xff", b"\x02\x7f\xff") == (2, 1.0)
    assert difference(b"", b"") == (0, 0.0)
    assert difference(b"\x00", b"") is None


def test_a_sample_is_compared_with_what_comes_alone(url: str) -> None:
    same, other, gone = asks("fine-a", "fine-b", "fine-c")
    answer = Answer(OK, {**REPORT, "request_id": "x", "times_s": {}}, b"\x80" * 12)
    kept = {same: answer, other: replace(answer, pixels=b"\x85" * 12), gone: Answer(REFUSED)}
    found = compare(Target(url, "any"), kept, 5.0)
    assert (found.compared, found.most, found.mean) == (2, 5, 5.0)
    assert found.broken == (
        "fine-b: another picture than alone: 5 levels at most, 5.000 in the mean",
    )


def test_another_report_or_refusal_is_noticed() -> None:
    answer, status = Answer(OK, REPORT), {"status": "failed", "sample_s": 0.1}
    assert differing(answer, Answer(OK, {**REPORT, "times_s": {}})) is None
    assert (
        differing(answer, Answer(OK, {**REPORT, "segs": [status]})) == "another report than alone"
    )
    assert differing(answer, Answer(REFUSED, detail=LATER)) == "OK, but alone UNAVAILABLE"
    refused = Answer("INVALID_ARGUMENT", detail=WRONG)
    assert differing(refused, refused) is None
    elsewhere = replace(refused, detail=WRONG.model_copy(update={"field": "cfg"}))
    assert differing(refused, elsewhere) == "refused otherwise than alone"
    assert essence(None) is None


def test_what_does_not_hold_is_said() -> None:
    honest, good = Honest(3), Outcome(Counter({OK: 2, REFUSED: 1}))
    assert broken(honest, good, {OK: 2, REFUSED: 1}, Comparison(), Seen(0, 0, 1.5)) == []
    bad = Outcome(Counter({OK: 1, NO_RETRY: 1, LEFT: 1}), broken=["as the crowd says"])
    said = broken(honest, bad, {NO_ANSWER: 1}, Comparison(broken=("a: b",)), Seen(1, 2))
    assert said == [
        "as the crowd says",
        f"of the crowd: 1 {NO_RETRY}, 1 left",
        "of the stranger: 1 no answer",
        "a: b",
        "1 restarts",
        "2 reloads",
    ]
    assert broken(BadPng(1), Outcome(Counter({OK: 1})), {}, Comparison(), Seen()) != []


@pytest.mark.parametrize(
    ("sent_after", "came_after", "said"),
    [(0, 2, []), (0, 3, ["it was answered only when the crowd had ended"]),
     (3, 3, ["the crowd had ended before it was sent"])],
)  # fmt: skip
def test_what_comes_after_the_crowd_did_not_come_in_its_midst(
    sent_after: int, came_after: int, said: list[str]
) -> None:
    outcome = Outcome(Counter())
    Honest(3).require_amidst(Aside(OK, 0.1, sent_after, came_after), "it", outcome)
    assert outcome.broken == said


def test_only_a_refusal_may_be_late() -> None:
    assert (
        late(None) == late(Aside(OK, 9.0, 0, 0)) == late(Aside("INVALID_ARGUMENT", 2, 0, 0)) == []
    )
    assert late(Aside("INVALID_ARGUMENT", 2.5, 0, 0)) == ["refused after 2.5 s"]


def test_callers_and_their_sample_are_the_same_every_time() -> None:
    target, crowd = Target("", "demo"), Leaver(8, steps=3, spread=2)
    sent = [crowd.ask(target, index).body for index in range(8)]
    assert sent == [crowd.ask(target, index).body for index in range(8)]
    (leaver,) = [index for index, body in enumerate(sent) if body["steps"] > 4]
    assert crowd.chosen() == Leaver(8).chosen() and leaver not in crowd.chosen()
    assert len({replace(crowd, seed=seed).chosen() for seed in range(9)}) > 1
    assert len({body["seed"] for body in sent}) == 8


def test_slow_pictures_are_what_they_should_be() -> None:
    with Image.open(io.BytesIO(pictures.lossless_webp(300, 200))) as webp:
        webp.load()
        assert (webp.format, webp.size) == ("WEBP", (300, 200))
    with Image.open(io.BytesIO(pictures.photograph(160, 80))) as jpeg:
        assert (jpeg.format, jpeg.size) == ("JPEG", (160, 80))
    with Image.open(io.BytesIO(pictures.bad_png(50))) as png:
        assert (png.format, png.size) == ("PNG", (50, 50))
        with pytest.raises(OSError):
            png.load()


def test_restarts_and_time_not_ready_are_counted() -> None:
    health = Health()
    health.ready(["demo"])
    health.restarted(1, "before")
    health.ready(["demo"])
    with HealthServer(health, "127.0.0.1", 0) as server:
        with ServerWatch(Target("", "demo", f"http://127.0.0.1:{server.port}")) as watch:
            health.restarted(3, "meanwhile")
            health.reloading(1, "meanwhile")
            wait_until(lambda: watch.seen().not_ready_s)
        seen = watch.seen()
    assert (seen.restarts, seen.reloads, seen.peak_threads) == (2, 1, None)
    assert seen.not_ready_s is not None and seen.not_ready_s >= HEALTH_S


def test_a_row_says_what_was_seen() -> None:
    assert GOOD.held and GOOD.lost == 0
    assert GOOD.row()[-1] == "yes" and GOOD.row()[8] == "– / –"
    bad = replace(GOOD, ends={NO_ANSWER: 1, OK: 1}, broken=("a|b",), late=("c",))
    assert (bad.held, bad.lost) == (False, 1)
    table = to_markdown([GOOD, bad])
    assert "| honest | 2 | 3.0 | 1 OK, 1 no answer | 1 |" in table and "a\\|b; c" in table
    assert '"held": false' in to_json([bad], "here")


def test_a_report_takes_the_place_of_the_last(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_report(page, "new")
    assert page.read_text() == f"{BEGIN}\n\nnew\n\n{END}\n"
    page.write_text("# Page\n")
    write_report(page, "one")
    write_report(page, "two")
    assert page.read_text() == f"# Page\n\n{BEGIN}\n\ntwo\n\n{END}\n"
    page.write_text(f"{BEGIN}\n")
    with pytest.raises(ValueError, match="lacks"):
        write_report(page, "three")


def test_the_command_line_chooses_crowds() -> None:
    def crowds(*argv: str) -> list[tuple[str, int]]:
        given = command_line().parse_args(argv)
        given.modes = given.modes or MODES
        return [(crowd.mode, crowd.callers) for crowd in chosen(given)]

    assert crowds() == crowds("--full") == [(crowd.mode, crowd.callers) for crowd in FULL]
    assert crowds("--short") == [(crowd.mode, crowd.callers) for crowd in SHORT]
    assert crowds("leaver", "photos") == [("leaver", 40), ("leaver", 300), ("photos", 12)]
    assert crowds("honest", "gone", "--callers", "8") == [("honest", 8), ("gone", 8)]
