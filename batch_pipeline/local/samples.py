"""The sample uploads of the demonstration: files in ``sample_files``, and ``expected.json``, which lists them.

``expected.json`` has the inbox folder of each file and the expected numbers of its batch. ``launchpad.csv`` is no part
of the demonstration. People and numbers in the
files are invented: mailboxes at example domains, telephone numbers reserved for fiction.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batch_pipeline.batches.stats import Stats

BLOCK_ROWS = 250
_FOLDER = Path(__file__).with_name("sample_files")


@dataclass(frozen=True)
class Expected:
    """The expected end of a sample's batch.

    Attributes:
        reason: the code of a failed batch's reason.
        codes: number of errors in errors.json by code.
    """

    status: str = "completed"
    reason: str | None = None
    stats: Stats = field(default_factory=Stats)
    codes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class IdsFrom:
    """A CSV of ids: the ids of these external ids in another sample's result.json, and other ids."""

    title: str
    external_ids: Sequence[str]
    more: Sequence[str] = ()


@dataclass(frozen=True)
class RejectedFrom:
    """No file: `retry --failed-rows` creates the batch from another sample's batch."""

    title: str


@dataclass(frozen=True)
class Sample:
    """A sample: a file for the inbox, or how to make it.

    Attributes:
        title: name for display; unique.
        folder: resource and action, as in the inbox.
        name: the file's name in the inbox.
        content: the file's bytes, or how to make them from an ended batch.
        options: its sidecar, if it has one.
        after: title of the sample that must have been taken in before this one is put into the inbox.
        once_ended: whether the batch of that sample must have ended as well.
        is_clubs: whether it is for the second organization, where records are replaced and deleted.
    """

    title: str
    folder: str
    name: str
    content: bytes | IdsFrom | RejectedFrom
    expected: Expected
    options: Mapping[str, Any] | None = None
    after: str | None = None
    once_ended: bool = False
    is_clubs: bool = False

    @property
    def made_of(self) -> str | None:
        """Title of the sample that this one is made from; its batch must have ended. None for a file."""
        return None if isinstance(self.content, bytes) else self.content.title

    @property
    def resource(self) -> str:
        """The resource of the items."""
        return self.folder.partition("/")[0]

    @property
    def action(self) -> str:
        """The action on the items."""
        return self.folder.rpartition("/")[2]


def load_samples(rows: int = 100_000) -> list[Sample]:
    """The demonstration's samples in their order; the first has ``rows`` rows, rounded down to whole blocks of 250."""
    if rows < BLOCK_ROWS:
        raise ValueError(f"the large file is made of blocks of {BLOCK_ROWS} rows")
    listed = json.loads((_FOLDER / "expected.json").read_text(encoding="utf-8"))
    return [_sample(entry, rows // BLOCK_ROWS) for entry in listed]


def launchpad_sample() -> bytes:
    """The small CSV of contacts that the Launchpad's first config names; two of its ten rows are wrong."""
    return (_FOLDER / "launchpad.csv").read_bytes()


def csv_text(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A CSV file's text, with CRLF line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _sample(entry: dict[str, Any], blocks: int) -> Sample:
    """One entry of ``expected.json``. The content of a file with ``in_blocks``, and its numbers, are per block."""
    expected = entry.pop("expected")
    stats, codes = expected.pop("stats", {}), expected.pop("codes", {})
    content: bytes | IdsFrom | RejectedFrom
    times = 1
    if "ids_from" in entry:
        content = IdsFrom(**entry.pop("ids_from"))
    elif "rejected_from" in entry:
        content = RejectedFrom(entry.pop("rejected_from"))
    else:
        in_file = (_FOLDER / entry.pop("file")).read_bytes()
        times = blocks if (in_blocks := entry.pop("in_blocks", False)) else 1
        content = _in_blocks(in_file, blocks) if in_blocks else in_file
    return Sample(
        content=content,
        expected=Expected(
            stats=Stats(**{name: count * times for name, count in stats.items()}),
            codes={code: count * times for code, count in codes.items()},
            **expected,
        ),
        **entry,
    )


def _in_blocks(content: bytes, blocks: int) -> bytes:
    """The header and, for each block, the rows; ``{block}`` is replaced by four characters unique to the block."""
    header, _, rows = content.partition(b"\r\n")
    # Without zero, which record ids can't contain.
    names = (f"{number:04}".replace("0", "A").encode() for number in range(1, blocks + 1))
    return b"".join([header, b"\r\n", *(rows.replace(b"{block}", name) for name in names)])
