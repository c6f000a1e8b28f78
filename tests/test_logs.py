"""The format of logs: JSON with who worked on what, and never the text of a library's exception."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from batch_pipeline.errors import NotFoundError
from batch_pipeline.logs import bind, bound, configure_logs

VALUE = "ada@example.com"
logger = logging.getLogger("batch_pipeline.tests")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the root logger writes; afterwards the root has the handlers that it had."""
    before = list(logging.root.handlers)
    yield io.StringIO()
    logging.root.handlers[:] = before


def _fail() -> None:
    try:
        try:
            raise ValueError(f"Key (email)=({VALUE}) already exists.")
        except ValueError as error:
            raise NotFoundError("batch_not_found", "There is no batch x.") from error
    except NotFoundError:
        logger.exception("It failed for %s", "x")


def test_a_json_record_says_who_worked_on_what(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    monkeypatch.setenv("BATCH_LOG_FORMAT", "json")
    configure_logs(stream)
    configure_logs(stream)  # replaces, adds none

    with bound(batch="batch_1", organization="acme", run="r"):
        _fail()
    logger.warning("after\nit")
    bind(organization="other")
    logger.info("not shown")
    logger.warning("bound")

    first, second, third = (json.loads(line) for line in stream.getvalue().splitlines())
    lines = first.pop("exception")
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "error",
        "message": "It failed for x",
        "logger": "batch_pipeline.tests",
        "batch": "batch_1",
        "organization": "acme",
        "run": "r",
    }
    assert lines[0] == "batch_pipeline.errors.NotFoundError: There is no batch x."
    assert "builtins.ValueError" in lines
    assert any("test_logs.py" in line and line.endswith("_fail") for line in lines)
    assert set(second) == {"time", "level", "message", "logger"}
    assert third["organization"] == "other"
    assert VALUE not in stream.getvalue()


def test_text_is_the_default_and_has_no_text_of_other_exceptions_either(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    monkeypatch.delenv("BATCH_LOG_FORMAT", raising=False)
    configure_logs(stream)

    _fail()

    assert "ERROR batch_pipeline.tests: It failed for x\n" in stream.getvalue()
    assert "There is no batch x." in stream.getvalue()
    assert VALUE not in stream.getvalue()


def test_what_another_handler_has_written_is_not_written_again(stream: io.StringIO) -> None:
    configure_logs(stream)
    other = logging.getLogger("tests_of_logs")
    handler = logging.StreamHandler(io.StringIO())
    other.addHandler(handler)
    logging.getLogger("tests_of_logs.child").warning("once")
    other.removeHandler(handler)
    other.warning("twice")

    assert "once" not in stream.getvalue()
    assert "twice" in stream.getvalue()


@pytest.fixture
def command() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("BATCH_", "DAGSTER_"))}
        return subprocess.run(
            [sys.executable, "-m", "batch_pipeline", *arguments],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_messages_of_commands_are_records_too(command: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    url = "postgresql://user@127.0.0.1:1/name"
    storage = "s3://bucket"
    done = command("list", BATCH_LOG_FORMAT="json", BATCH_DATABASE_URL=url, BATCH_STORAGE_URL=storage)

    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 3
    assert (records[-1]["level"], "can't be reached" in records[-1]["message"]) == ("error", True)
    wrong = command("list", BATCH_LOG_FORMAT="xml")
    assert wrong.returncode == 2
    assert "BATCH_LOG_FORMAT" in wrong.stderr
