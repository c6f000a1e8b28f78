"""Entries of ``errors.json``: each rejected item as uploaded, with its errors."""

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads import texts
from batch_pipeline.payloads.artifacts.rejected import Merged, RejectedChunk
from batch_pipeline.payloads.model import CellKind, RawChunk


def json_entries(chunk: RejectedChunk, merged: Merged) -> pa.StringArray:
    """``{row, item, errors: [{code, field, message, value}]}``, compact, for each row."""
    items = merged.arrange(json_items(chunk.items), unreadable_items(chunk.items))
    errors = texts.join_groups(_error_objects(chunk.errors), merged.error_offsets, ",")
    return texts.concat('{"row":', merged.rows.cast(pa.string()), ',"item":', items, ',"errors":[', errors, "]}")


def unreadable_items(items: RawChunk) -> pa.StringArray:
    """``{"_raw": "the line"}`` for each unreadable row."""
    return texts.concat('{"_raw":"', texts.json_content(items.unreadable["raw"].combine_chunks()), '"}')


def json_items(items: RawChunk) -> pa.StringArray:
    """Each item as JSON object: the fields that it carries; numbers, booleans and nested JSON as written."""
    count = len(items.rows)
    if not items.columns:
        return texts.repeat("{}", count)
    members = {name: _json_values(column, items.kinds.get(name)) for name, column in items.columns.items()}
    if all(values.null_count == 0 for values in members.values()):
        parts: list[pa.Array | str] = []
        for name, values in members.items():
            parts += [f"{',' if parts else '{'}{texts.json_string(name)}:", values]
        return texts.concat(*parts, "}")
    carried = [texts.concat(f",{texts.json_string(name)}:", values) for name, values in members.items()]
    # Not null_handling="skip": pyarrow 26 then leaves out the rows in which all are null.
    joined = texts.concat_present(*carried)
    return texts.concat(pc.binary_replace_slice(joined, start=0, stop=1, replacement="{"), "}")


def _json_values(column: pa.StringArray, kinds: pa.UInt8Array | None) -> pa.StringArray:
    """The JSON text of each cell; null where the item does not carry the field."""
    quoted = texts.concat('"', texts.json_content(column), '"')
    if kinds is None:
        return quoted
    other = pc.if_else(pc.equal(kinds, int(CellKind.NULL)), "null", column)
    return pc.if_else(pc.equal(kinds, int(CellKind.TEXT)), quoted, other)


def _error_objects(errors: pa.Table) -> pa.StringArray:
    parts: list[pa.Array | str] = []
    for name in ("code", "field", "message", "value"):
        parts += [f'{"," if parts else "{"}"{name}":', texts.json_strings(errors[name].combine_chunks())]
    return texts.concat(*parts, "}")
