"""Logs: one line a record on stderr, for people or for machines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from config.logging import JsonFormatter, configure_logging


@pytest.fixture(autouse=True)
def restored() -> Iterator[Any]:
    """The test runner's own handlers and levels, after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loud = {name: logging.getLogger(name).level for name in ("psycopg.pool", "uvicorn.error")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, value in loud.items():
        logging.getLogger(name).setLevel(value)


def test_text_is_a_line_with_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("ingestor.sink").warning("%d rows", 3)
    logging.getLogger("ingestor.sink").debug("not this")
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.endswith(" WARNING ingestor.sink: 3 rows")
    datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S.%f").astimezone()


def test_json_is_an_object_a_line_with_extras_and_exceptions(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    logger = logging.getLogger("ingestor.sink")
    logger.info("two\nlines", extra={"rows": 3, "where": object})
    try:
        int("x")
    except ValueError:
        logger.exception("failed")
    first, second = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert first["message"] == "two\nlines"
    assert (first["level"], first["logger"], first["rows"]) == ("info", "ingestor.sink", 3)
    moment = datetime.fromisoformat(first["time"])
    assert moment.utcoffset() == UTC.utcoffset(None)
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 10
    assert "ValueError: invalid literal" in second["exception"]


def test_json_has_no_fields_of_the_machinery() -> None:
    record = logging.LogRecord("a", logging.INFO, __file__, 1, "b", (), None)
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "message"}


def test_the_level_is_a_limit_and_a_second_call_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "text")
    configure_logging("ERROR", "json")
    logging.getLogger("a").warning("not this")
    logging.getLogger("a").error("this")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "this"
    assert [type(handler.formatter) for handler in logging.getLogger().handlers] == [JsonFormatter]
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr


def test_libraries_that_repeat_us_are_quieter(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "text")
    logging.getLogger("psycopg.pool").warning("error connecting")
    logging.getLogger("uvicorn.error").info("Started server process")
    assert capsys.readouterr().err == ""
