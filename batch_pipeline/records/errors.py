"""Item errors as a table, with messages for the people who upload."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VALUE_CHARACTERS = 200  # of a value in a message; the errors file also has the whole item
NUL, NUL_SHOWN = "\x00", "\ufffd"  # errors are staged in PostgreSQL, whose text can't hold a NUL

ERRORS_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("field", pa.string()),
        pa.field("message", pa.string(), nullable=False),
        pa.field("value", pa.string()),
    ]
)


def item_errors(
    *,
    rows: pa.Int64Array,
    code: str,
    field: str | pa.StringArray | None,
    expectation: str,
    values: pa.StringArray | None = None,
) -> pa.Table:
    """One error for each of `rows` (`ERRORS_SCHEMA`); the message is `field "value" expectation`.

    `field` is one name for all rows, or a name for each row. Values and names are cut after 200 characters, and a NUL
    in them becomes U+FFFD. The message has no value if `values` is None or the row's value is null.
    """
    count = len(rows)
    if field is None or isinstance(field, str):
        field = pa.repeat(pa.scalar(field, pa.string()), count)
    field = _shortened(field)
    shown = pa.nulls(count, pa.string()) if values is None else _shortened(values)
    subject = pc.if_else(pc.equal(pc.fill_null(field, ""), ""), "the item", field)
    quoted = pc.binary_join_element_wise(subject, ' "', shown, f'" {expectation}', "")
    messages = pc.coalesce(quoted, pc.binary_join_element_wise(subject, expectation, " "))
    return pa.table(
        [
            rows,
            pa.repeat(pa.scalar(code, pa.string()), count),
            field,
            messages,
            shown,
        ],
        schema=ERRORS_SCHEMA,
    )


def combine(tables: list[pa.Table]) -> pa.Table:
    """All errors in one table, sorted by row; the errors of one row keep their order."""
    if not tables:
        return ERRORS_SCHEMA.empty_table()
    table = pa.concat_tables(tables)
    if table.num_rows == 0:
        return table
    order = np.argsort(table["row"].to_numpy(), kind="stable")
    return table.take(pa.array(order))


def _shortened(values: pa.StringArray) -> pa.StringArray:
    if len(values) == 0:
        return values
    longest = pc.max(pc.utf8_length(values)).as_py() or 0
    if longest > VALUE_CHARACTERS:
        values = pc.utf8_slice_codeunits(values, 0, VALUE_CHARACTERS)
    return pc.replace_substring(values, NUL, NUL_SHOWN)
