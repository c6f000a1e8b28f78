"""How commands speak: data on stdout, everything else on stderr, and nothing that could drive a terminal."""

import json
import os
import re
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

# Where no terminal tells its width: wide enough that no id or number is cut for whoever reads the file.
_FILE_COLUMNS = 200
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() or "COLUMNS" in os.environ else _FILE_COLUMNS
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=width)


def data_console() -> Console:
    """Writes what a command was asked for (stdout)."""
    return _console(sys.stdout)


def talk_console() -> Console:
    """Writes everything else (stderr)."""
    return _console(sys.stderr)


def print_json(data: Any) -> None:
    """Writes one JSON text to stdout."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def say(line: str) -> None:
    """Tells something on one line of stderr."""
    talk_console().print(Text(one_line(line)), soft_wrap=True)


def say_error(message: str) -> None:
    """Tells a failure on one line of stderr."""
    talk_console().print(Text.assemble(("error: ", "bold red"), one_line(message)), soft_wrap=True)


def sentences(first: str, second: str) -> str:
    """Both, one after the other."""
    return f"{first} {second}" if first.endswith((".", "?", "!")) else f"{first}. {second}"


def one_line(text: str) -> str:
    """The text on one line, as `printable`."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text with control characters and such written out: uploads hold anything, terminals obey it."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
