"""Rejected items for the tests of this folder, made as a reader would make them, and reading back what was written."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from batch_pipeline.payloads.artifacts import ErrorsWriter, RejectedChunk
from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, CellKind, RawChunk
from batch_pipeline.records.errors import ERRORS_SCHEMA

Error = tuple[int, str, str | None, str, str | None]


def csv_chunk(columns: Sequence[str], items: Mapping[int, Sequence[str]], raws: Mapping[int, str]) -> RawChunk:
    """Rows of a CSV upload: cells of the readable ones, lines of the unreadable ones."""
    cells = {
        name: pa.array([item[position] for item in items.values()], pa.string())
        for position, name in enumerate(columns)
    }
    return RawChunk(pa.array(list(items), pa.int64()), cells, {}, _unreadable(raws))


def json_chunk(items: Mapping[int, Mapping[str, Any]], raws: Mapping[int, str] | None = None) -> RawChunk:
    """Items of a JSON upload; a `Verbatim` stands for JSON text that Python would write in another way."""
    names = list(dict.fromkeys(name for item in items.values() for name in item))
    columns: dict[str, pa.StringArray] = {}
    kinds: dict[str, pa.UInt8Array] = {}
    for name in names:
        cells = [_cell(item[name]) if name in item else (None, None) for item in items.values()]
        columns[name] = pa.array([text for text, _ in cells], pa.string())
        if any(kind not in (None, CellKind.TEXT) for _, kind in cells):
            kinds[name] = pa.array([None if kind is None else int(kind) for _, kind in cells], pa.uint8())
    return RawChunk(pa.array(list(items), pa.int64()), columns, kinds, _unreadable(raws or {}))


class Verbatim(str):
    """JSON text as it stands in an upload."""

    __slots__ = ()


def _cell(value: Any) -> tuple[str, CellKind]:
    text = value if isinstance(value, Verbatim) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if value is None:
        return "", CellKind.NULL
    if isinstance(value, str) and not isinstance(value, Verbatim):
        return value, CellKind.TEXT
    if text in ("true", "false"):
        return text, CellKind.BOOLEAN
    return text, {"[": CellKind.ARRAY, "{": CellKind.OBJECT}.get(text[0], CellKind.NUMBER)


def _unreadable(raws: Mapping[int, str]) -> pa.Table:
    arrays = [list(raws), list(raws.values()), ["bad row"] * len(raws)]
    return pa.table(arrays, schema=UNREADABLE_SCHEMA)


def error_table(errors: Iterable[Error]) -> pa.Table:
    columns = list(zip(*errors, strict=True)) or [()] * len(ERRORS_SCHEMA)
    return pa.table([list(column) for column in columns], schema=ERRORS_SCHEMA)


def one_error_each(chunk: RawChunk) -> RejectedChunk:
    rows = sorted(chunk.rows.to_pylist() + chunk.unreadable["row"].to_pylist())
    return RejectedChunk(chunk, error_table([(row, "required", "name", "is missing", None) for row in rows]))


def write_errors(
    chunks: Iterable[RejectedChunk], columns: Sequence[str], *, has_unreadable: bool = False
) -> tuple[bytes, bytes]:
    """What errors.csv and errors.json hold."""
    csv_file, json_file = io.BytesIO(), io.BytesIO()
    with ErrorsWriter(csv_file, json_file, columns=columns, has_unreadable=has_unreadable) as writer:
        for chunk in chunks:
            writer.write(chunk)
    return csv_file.getvalue(), json_file.getvalue()


def read_csv(data: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and rows of errors.csv, one apostrophe taken off each cell that begins with one."""
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    return [name.removeprefix("'") for name in header], [[cell.removeprefix("'") for cell in row] for row in rows]
