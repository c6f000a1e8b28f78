"""Parquet files taken apart and put together again, with page headers and footers that state what isn't so."""

import io
import struct
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from thrift_compact import ThriftStruct, decode_struct, encode_struct

Change = Callable[[ThriftStruct], None]
_MAGIC = b"PAR1"
# Numbers of fields: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
FILE_SCHEMA, FILE_ROWS, FILE_GROUPS = 2, 3, 4
GROUP_COLUMNS, GROUP_BYTES, GROUP_ROWS = 1, 2, 3
CHUNK_METADATA = 3
COLUMN_ENCODINGS, COLUMN_VALUES, COLUMN_STORED_BYTES = 2, 5, 7
PAGE_BYTES, PAGE_STORED_BYTES, PAGE_DATA = 2, 3, 5
PAGE_VALUES = 1


def one_page(values: list[str]) -> bytes:
    """A file of one column of texts in one page."""
    file = io.BytesIO()
    pq.write_table(
        pa.table({"a": values}),
        file,
        use_dictionary=False,
        write_statistics=False,
        compression="zstd",
        store_schema=False,
    )
    return file.getvalue()


def group_of(footer: ThriftStruct) -> ThriftStruct:
    """The first row group."""
    return footer[FILE_GROUPS].values[0]


def column_of(footer: ThriftStruct) -> ThriftStruct:
    """The metadata of the first column in the first row group."""
    return group_of(footer)[GROUP_COLUMNS].values[0][CHUNK_METADATA]


def with_footer(data: bytes, change: Change) -> bytes:
    """The file with a changed footer."""
    (size,) = struct.unpack("<I", data[-8:-4])
    start = len(data) - 8 - size
    footer, _ = decode_struct(data, start)
    change(footer)
    encoded = encode_struct(footer)
    return data[:start] + encoded + struct.pack("<I", len(encoded)) + _MAGIC


def with_page_header(data: bytes, change: Change) -> bytes:
    """The file with a changed header of its first page; the footer has the new size of the column."""
    header, end = decode_struct(data, len(_MAGIC))
    change(header)
    encoded = encode_struct(header)
    more = len(encoded) - (end - len(_MAGIC))

    def grow(footer: ThriftStruct) -> None:
        column_of(footer)[COLUMN_STORED_BYTES] += more

    return with_footer(_MAGIC + encoded + data[end:], grow)
