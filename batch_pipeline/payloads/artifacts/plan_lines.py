"""``plan.csv`` and ``plan.json``: what the batch would do with each item."""

from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts.json_array import JsonArrayFile

# `changes`, `errors` and `was` are JSON texts.
PLAN_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("external_id", pa.string()),
        pa.field("changes", pa.string()),
        pa.field("errors", pa.string()),
        pa.field("was", pa.string()),
    ]
)

_LINE_END = "\r\n"


class PlanWriter:
    """Writes ``plan.csv`` and ``plan.json`` as a stream: a line for each item, then one for each record to delete.

    plan.json: a JSON array, an object a line: ``row`` (null for a record to delete), ``outcome``, ``id``,
    ``external_id``, ``changes`` (``[{"field", "before", "after"}]``) and ``errors`` (``[{"code", "field", "message",
    "value"}]``). If the plan was shown before and the line is different now, ``was`` has its ``outcome``, ``id`` and
    ``changes`` of then; null if there was no such line.

    plan.csv: the same columns; UTF-8, comma, CRLF, every text quoted; ``changes``, ``errors`` and ``was`` are JSON. A
    cell that begins with one of ``= + - @``, tab, CR or ``'`` has one apostrophe before it (CWE-1236).

    A context manager; leaving it by an exception leaves the files unfinished.
    """

    def __init__(self, csv_file: BinaryIO, json_file: BinaryIO) -> None:
        self._csv = csv_file
        self._json = JsonArrayFile(json_file)

    def __enter__(self) -> Self:
        self._csv.write((",".join(PLAN_SCHEMA.names) + _LINE_END).encode())
        self._json.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._json.end()

    def write(self, lines: pa.Table) -> None:
        """Adds lines (`PLAN_SCHEMA`)."""
        for batch in lines.select(PLAN_SCHEMA.names).to_batches():
            sizes = [texts.byte_sizes(batch[name]) for name in PLAN_SCHEMA.names[1:]]
            for start, stop in texts.pieces(np.sum(sizes, axis=0)):
                piece = batch[start:stop]
                texts.write_texts(self._csv, _csv_lines(piece))
                self._json.write(_objects(piece))


def _csv_lines(batch: pa.RecordBatch) -> pa.StringArray:
    parts: list[pa.Array | str] = [batch["row"].cast(pa.string()).fill_null("")]
    for name in PLAN_SCHEMA.names[1:]:
        parts += [',"', texts.csv_content(batch[name].fill_null("")), '"']
    return texts.concat(*parts, _LINE_END)


def _objects(batch: pa.RecordBatch) -> pa.StringArray:
    row = batch["row"].cast(pa.string()).fill_null("null")
    outcome, identifier, external_id = (texts.json_strings(batch[name]) for name in ("outcome", "id", "external_id"))
    changes, errors = (batch[name].fill_null("[]") for name in ("changes", "errors"))
    was = texts.concat(',"was":', batch["was"]).fill_null("")
    return texts.concat(
        '{"row":', row, ',"outcome":', outcome, ',"id":', identifier, ',"external_id":', external_id,
        ',"changes":', changes, ',"errors":', errors, was, "}",
    )  # fmt: skip
