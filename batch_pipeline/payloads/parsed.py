"""How a parsed chunk is handed on: one Arrow table of its readable and unreadable rows, stored as Parquet.

Columns: `row` int64; `=name` string and, where there are kinds, `?name` uint8 for each upload column, null for
unreadable rows; `!raw` and `!message` string, null for readable ones (absent where all are readable).
"""

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, RawChunk


def to_table(chunk: RawChunk) -> pa.Table:
    """The chunk as one table; readable rows first."""
    columns: dict[str, pa.Array] = {"row": chunk.rows}
    columns |= {f"={name}": text for name, text in chunk.columns.items()}
    columns |= {f"?{name}": kinds for name, kinds in chunk.kinds.items()}
    table = pa.table(columns)
    if chunk.unreadable.num_rows == 0:
        return table
    broken = chunk.unreadable
    unreadable = pa.table({"row": broken["row"], "!raw": broken["raw"], "!message": broken["message"]})
    return pa.concat_tables([table, unreadable], promote_options="permissive")


def from_table(table: pa.Table) -> RawChunk:
    """The inverse of `to_table`."""
    unreadable = UNREADABLE_SCHEMA.empty_table()
    if "!message" in table.column_names:
        broken = pc.is_valid(table["!message"])
        rows = table.filter(broken)
        unreadable = pa.table([rows["row"], rows["!raw"], rows["!message"]], schema=UNREADABLE_SCHEMA)
        table = table.filter(pc.invert(broken)).drop_columns(["!raw", "!message"])
    table = table.combine_chunks()
    columns = {name: _whole(table[name]) for name in table.column_names}
    return RawChunk(
        rows=columns.pop("row"),
        columns={name[1:]: column for name, column in columns.items() if name.startswith("=")},
        kinds={name[1:]: column for name, column in columns.items() if name.startswith("?")},
        unreadable=unreadable,
    )


def select(chunk: RawChunk, wanted: pa.BooleanArray) -> RawChunk:
    """The chunk with only the readable rows that are wanted; the unreadable ones stay."""
    return RawChunk(
        rows=chunk.rows.filter(wanted),
        columns={name: column.filter(wanted) for name, column in chunk.columns.items()},
        kinds={name: column.filter(wanted) for name, column in chunk.kinds.items()},
        unreadable=chunk.unreadable,
    )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
