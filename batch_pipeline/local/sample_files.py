"""What a sample of the demonstration is: a file for the inbox, or what is made of an earlier batch, and its outcome."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from batch_pipeline.batches.model import Stats


@dataclass(frozen=True)
class Expected:
    """What must become of a sample.

    Attributes:
        reason: the code of a failed batch's reason.
        codes: how often errors.json names each error code.
    """

    status: str = "completed"
    reason: str | None = None
    stats: Stats = field(default_factory=Stats)
    codes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class IdsFrom:
    """A CSV of ids: those that another sample's result.json gives to these external ids, and some more."""

    title: str
    external_ids: Sequence[str]
    more: Sequence[str] = ()


@dataclass(frozen=True)
class RejectedFrom:
    """What `retry --failed-rows` makes of another sample's batch: no file at all."""

    title: str


@dataclass(frozen=True)
class Sample:
    """A file for the inbox, or what stands for one.

    Attributes:
        title: what it is, for people.
        folder: resource and action, as the inbox's folders name them.
        content: the file's bytes, or how they are got from a batch, which must have ended before.
        options: its sidecar, if it has one.
        after: title of the sample that must have been taken in before this one is put there.
        once_ended: whether the batch of that sample must have ended as well.
        is_clubs: whether it is of the second organization, whose records are replaced and deleted.
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
        """Title of the sample whose batch must have ended before this one can be made; None where it is a file."""
        return None if isinstance(self.content, bytes) else self.content.title

    @property
    def resource(self) -> str:
        """What the items are."""
        return self.folder.partition("/")[0]

    @property
    def action(self) -> str:
        """What is done with the items."""
        return self.folder.rpartition("/")[2]


def csv_text(header: Sequence[str], lines: Iterable[Sequence[str]], delimiter: str = ",") -> str:
    """A CSV file's text, its lines ended by CRLF."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
