"""Log lines as JSON, on their way from a Python model to whoever reads the server's."""

from __future__ import annotations

import io
import json
import logging

import pytest

from serving.logs import LogReader, parse_line
from tests.waiting import PATIENCE_S, wait_until
from triton_models.log_format import FIELDS, JsonFormatter, about, parse_json_line


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(written: io.StringIO) -> logging.Logger:
    logger = logging.Logger("front_end")
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    return logger


def test_a_line_names_its_request(log: logging.Logger, written: io.StringIO) -> None:
    with about("r-1", "abc"):
        log.info("request %r: ok\nand more", "r-1", extra={FIELDS: {"code": "OK"}})
    log.warning("of no request")
    first, second = map(json.loads, written.getvalue().splitlines())
    assert first["message"] == "request 'r-1': ok\nand more"
    assert {key: first[key] for key in ("level", "logger", "request_id", "trace_id", "code")} == {
        "level": "INFO",
        "logger": "front_end",
        "request_id": "r-1",
        "trace_id": "abc",
        "code": "OK",
    }
    assert first["time"].endswith("Z")
    assert "request_id" not in second


def test_a_trace_of_an_error_stays_in_its_line(log: logging.Logger, written: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        log.error("incident", exc_info=error)
    (line,) = written.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["exception"]


def test_the_reader_hands_on_what_a_model_wrote(log: logging.Logger, written: io.StringIO) -> None:
    with about("r-1"):
        log.error("incident 1")
    records: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    outer = logging.Logger("tritonserver")
    outer.addHandler(Keeper())
    reader = LogReader(io.StringIO(written.getvalue()), outer, None)
    wait_until(lambda: records)
    reader.join(PATIENCE_S)
    (record,) = records
    assert (record.levelname, record.getMessage()) == ("ERROR", "incident 1")
    again = json.loads(JsonFormatter().format(record))
    original = json.loads(written.getvalue())
    assert again == original  # its own time and logger too


@pytest.mark.parametrize("line", ["", "{}", '{"time": 1}', '{"time":', "INFO front_end hello"])
def test_other_lines_are_not_parsed(line: str) -> None:
    assert parse_json_line(line) is None


def test_other_output_is_read_as_before() -> None:
    parsed = parse_line("INFO front_end hello")
    assert parsed is not None
    assert (parsed.message, parsed.logged, dict(parsed.fields)) == ("front_end: hello", True, {})
