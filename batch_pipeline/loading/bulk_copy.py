"""Arrow tables to and from PostgreSQL by COPY."""

from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
from psycopg import sql

from batch_pipeline.database import Connection

MAX_BLOCK_BYTES = 2**31 - 1  # pyarrow's limit for a block of its CSV reader


def copy_table(connection: Connection, target: sql.Identifier, table: pa.Table, *, is_new: bool = True) -> None:
    """COPYs an Arrow table into the columns of the same names; null becomes NULL.

    `is_new`: the target was created in this transaction, so its rows are written frozen; the first reader then need not
    mark each page.
    """
    if table.num_rows == 0:
        return
    buffer = pa.BufferOutputStream()
    pacsv.write_csv(table, buffer, pacsv.WriteOptions(include_header=False))
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in table.column_names)
    options = sql.SQL("FORMAT csv, FREEZE" if is_new else "FORMAT csv")
    statement = sql.SQL("COPY {} ({}) FROM STDIN ({})").format(target, columns, options)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(buffer.getvalue())


def fetch_table(connection: Connection, query: sql.Composed, parameters: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """A query's result as an Arrow table of the given schema, by COPY. An empty text stays different from NULL."""
    with connection.cursor() as cursor:
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)").format(query)
        with cursor.copy(statement, parameters) as copy:
            data = b"".join(bytes(part) for part in copy)
    if not data:
        return schema.empty_table()
    return pacsv.read_csv(
        pa.py_buffer(data),
        # One block, because a row that is larger than its block can't be read.
        read_options=pacsv.ReadOptions(
            column_names=schema.names, use_threads=False, block_size=min(len(data) + 1, MAX_BLOCK_BYTES)
        ),
        # If there is one column, an empty line is a NULL.
        parse_options=pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=pacsv.ConvertOptions(
            column_types=schema,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
        ),
    ).cast(schema)
