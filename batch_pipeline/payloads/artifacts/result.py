"""``result.json``: what became of each item."""

from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts.json_array import JsonArrayFile

RESULT_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("external_id", pa.string()),
    ]
)

# Of an undo. `field`: null for a whole record. `by`: the batch or record that is in the way. `error`: of the database.
UNDO_RESULT_SCHEMA = pa.schema(
    [*RESULT_SCHEMA, pa.field("field", pa.string()), pa.field("by", pa.string()), pa.field("error", pa.string())]
)


class ResultWriter:
    """Writes ``result.json`` as a stream: a JSON array of objects with the schema's members, one a line.

    The order is the caller's: rows of the upload ascending, then, with ``row`` null, the records that an
    overwrite removed. A context manager; leaving it by an exception leaves the file unfinished.
    """

    def __init__(self, json_file: BinaryIO, schema: pa.Schema = RESULT_SCHEMA) -> None:
        self._json = JsonArrayFile(json_file)
        self._names = schema.names
        self._texts = [field.name for field in schema if field.type == pa.string()]

    def __enter__(self) -> Self:
        self._json.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._json.end()

    def write(self, rows: pa.Table) -> None:
        """Adds rows of the schema; columns in any order."""
        for batch in rows.select(self._names).to_batches():
            sizes = [texts.byte_sizes(batch[name]) for name in self._texts]
            for start, stop in texts.pieces(np.sum(sizes, axis=0)):
                self._json.write(_objects(batch[start:stop]))


def _objects(batch: pa.RecordBatch) -> pa.StringArray:
    parts: list[str | pa.StringArray] = ['{"row":', batch["row"].cast(pa.string()).fill_null("null")]
    for name in batch.schema.names[1:]:
        parts += [f',"{name}":', texts.json_strings(batch[name])]
    return texts.concat(*parts, "}")
