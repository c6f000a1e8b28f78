"""Output of commands: data on stdout, messages on stderr. Control characters are escaped."""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from batch_pipeline.logs import is_json

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)

# The width of output that is not a terminal: wide enough for all ids and numbers.
_FILE_COLUMNS = 200
_LINE_BREAK = re.compile(r"\s*[\t\n\v\f\r\x85\u2028\u2029]\s*")  # blanks stay: a message may quote a header
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass
class _Messages:
    """State of the messages on stderr.

    Attributes:
        console: of the active progress display, if any; lines must go through it, or they would break the display.
        last_at: monotonic time of the last message, or of the start.
    """

    console: Console | None = None
    last_at: float = field(default_factory=time.monotonic)


_messages = _Messages()


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() or "COLUMNS" in os.environ else _FILE_COLUMNS
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def data_console() -> Console:
    """The console for data (stdout)."""
    return _console(sys.stdout)


def message_console() -> Console:
    """The console for messages (stderr)."""
    return _messages.console or _console(sys.stderr)


@contextmanager
def display_console() -> Iterator[Console]:
    """A console for a progress display; within the ``with``, messages go through it, from all threads.

    It writes to the stderr of this moment, even if a caller redirects stderr later.
    """
    before = _messages.console
    _messages.console = console = message_console()
    try:
        yield console
    finally:
        _messages.console = before


def print_json(data: Any) -> None:
    """Prints one JSON text to stdout."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def say(line: str) -> None:
    """Prints a message to stderr, on one line."""
    _print(Text(one_line(line)), logging.INFO)


def say_error(message: str) -> None:
    """Prints a failure to stderr, on one line."""
    _print(Text.assemble(("error: ", "bold red"), one_line(message)), logging.ERROR)


def seconds_since_message() -> float:
    """Seconds since the last message; since the start if there was none."""
    return time.monotonic() - _messages.last_at


def join_sentences(first: str, second: str) -> str:
    """Both sentences; the first gets a full stop if it has none."""
    return f"{first} {second}" if first.endswith((".", "?", "!")) else f"{first}. {second}"


def one_line(text: str) -> str:
    """The text on one line, printable."""
    return printable(_LINE_BREAK.sub(" ", text.strip()))


def printable(text: str) -> str:
    """The text with control characters escaped: uploads may contain them, and a terminal executes them."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _print(text: Text, level: int) -> None:
    if is_json():
        logger.log(level, text.plain)
    else:
        message_console().print(text, soft_wrap=True)
    _messages.last_at = time.monotonic()
