"""Decodes a Parquet file in a process of its own, under a hard limit of memory: ``PATH FIRST_ROW DIVISOR MAX_ROWS``.

What a Parquet file decodes to is known only once it is decoded: a value that is stored once can stand in every row, and
sizes in page headers can be wrong. So no size is trusted. The rows go to standard output as frames: the `Kind` of the
frame in one byte, the size of its body in eight, the body. Nothing else is written.

The process imports only pyarrow and the conversion to text, because each upload waits for its start.
"""

import os
import re
import struct
import sys
from collections.abc import Iterator
from enum import Enum
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_pipeline.payloads.arrow_texts import cell_texts

# What decoding may take beside the process itself. Writers make pages of a row group's whole column: 120,000 rows of
# 100 columns of 20 bytes take 240 MB.
MEMORY_BYTES = 400_000_000
# The size aimed at for a batch of rows when it is decoded, and for a frame.
BATCH_BYTES = 16 << 20
OUT_OF_MEMORY = 3  # exit code

MAGIC = b"PAR1"
HEADER = struct.Struct("<cQ")
ROWS, BATCH_ROWS = b"rows", b"batch_rows"

# Arrow's own size of a value in a list, and of the text that it becomes.
_VALUE_BYTES = 16
# Columns are read through buffers, of this size together.
_BUFFER_BYTES = 16 << 20
_MIN_COLUMN_BUFFER, _MAX_COLUMN_BUFFER = 4 << 10, 1 << 20
_END = struct.Struct("<I4s")
_STORED_SCHEMA, _UNKNOWN_KEY = b"ARROW:schema", b"-----:schema"
# Libraries report failed allocations as errors of many kinds.
_NO_MEMORY = re.compile("memory|alloc", re.IGNORECASE)


class Kind(Enum):
    """What a frame holds.

    SCHEMA: the file's Arrow schema; its metadata has the file's rows (`ROWS`) and the rows of a batch (`BATCH_ROWS`) in
    the row group that is decoded first. BATCH: a record batch in which each column is the text of its values.
    BROKEN: why the file can't be decoded, as UTF-8.
    """

    SCHEMA = b"S"
    BATCH = b"B"
    BROKEN = b"X"


def main() -> None:
    """Writes the rows of a file from one row on; ``divisor`` reduces the batches of that row's row group."""
    path, first_row, divisor, max_rows = sys.argv[1], *map(int, sys.argv[2:])
    _limit_memory()
    try:
        for kind, body in _frames(Path(path), first_row, divisor, max_rows):
            _send(kind, body)
    except BrokenPipeError:  # the reader wants no more, or has died
        os._exit(0)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except (pa.ArrowException, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        if _NO_MEMORY.search(text):
            os._exit(OUT_OF_MEMORY)
        _send(Kind.BROKEN, text[:200].encode(errors="replace"))


def _limit_memory() -> None:
    """Linux only: other systems have no limit that works."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _send(kind: Kind, body: bytes | pa.Buffer) -> None:
    out = sys.stdout.buffer
    out.write(HEADER.pack(kind.value, len(body)))
    out.write(body)
    out.flush()


def _frames(path: Path, first_row: int, divisor: int, max_rows: int) -> Iterator[tuple[Kind, bytes | pa.Buffer]]:
    footer = _read_footer(path)
    metadata = pq.read_metadata(BytesIO(footer))
    with pq.ParquetFile(BytesIO(footer)) as file:
        schema = file.schema_arrow
    groups = [(number, metadata.row_group(number)) for number in range(metadata.num_row_groups)]
    _check_counts(metadata, [group for _, group in groups])
    groups = [(number, group) for number, group in groups if group.num_rows > 0]
    while groups and first_row >= groups[0][1].num_rows:
        first_row -= groups.pop(0)[1].num_rows
    plan = [(number, _batch_rows(group, max_rows)) for number, group in groups]
    if plan:
        plan[0] = (plan[0][0], max(1, plan[0][1] // divisor))
    facts = {ROWS: str(metadata.num_rows), BATCH_ROWS: str(plan[0][1] if plan else 1)}
    yield Kind.SCHEMA, schema.with_metadata(facts).serialize()
    column_buffer = _BUFFER_BYTES // max(metadata.num_columns, 1)
    with pq.ParquetFile(
        path,
        # Types are those of the Parquet schema: pyarrow can't read all encodings into dictionaries.
        metadata=pq.read_metadata(BytesIO(footer.replace(_STORED_SCHEMA, _UNKNOWN_KEY))),
        buffer_size=min(max(column_buffer, _MIN_COLUMN_BUFFER), _MAX_COLUMN_BUFFER),
        pre_buffer=False,
        page_checksum_verification=True,
    ) as file:
        for number, rows in plan:
            for batch in file.iter_batches(rows, row_groups=[number], use_threads=False):
                skipped = min(first_row, batch.num_rows)
                first_row -= skipped
                for part in _parts(batch.slice(skipped)):
                    for frame in _parts(_texts(part, schema.names)):
                        yield Kind.BATCH, frame.serialize()


def _read_footer(path: Path) -> bytes:
    """The footer as a file that has nothing else."""
    with path.open("rb") as file:
        file_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, file_bytes - _END.size))
        end = file.read()
        size, magic = _END.unpack(end.rjust(_END.size))
        if magic != MAGIC or size > file_bytes - _END.size - len(magic):
            raise ValueError("it has no footer at its end")
        file.seek(file_bytes - _END.size - size)
        return MAGIC + file.read(size) + end


def _check_counts(metadata: pq.FileMetaData, groups: list[pq.RowGroupMetaData]) -> None:
    """Raises ValueError where a column without lists has more values than its row group has rows.

    pyarrow doesn't read the values beyond the last row. Too few values need no check: the reader counts the rows.
    """
    single = [n for n in range(metadata.num_columns) if metadata.schema.column(n).max_repetition_level == 0]
    for group in groups:
        for number in single:
            values = group.column(number).num_values
            if values > group.num_rows:
                raise ValueError(f"a row group of {group.num_rows:,} rows has {values:,} values in a column")


def _batch_rows(group: pq.RowGroupMetaData, max_rows: int) -> int:
    """A number of rows that take about `BATCH_BYTES` if the footer is right and no value is repeated."""
    values = sum(group.column(number).num_values for number in range(group.num_columns))
    size = group.total_byte_size + values * _VALUE_BYTES
    return int(min(max(BATCH_BYTES * group.num_rows // max(size, 1), 1), max_rows))


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in parts of at most `BATCH_BYTES`, or one row."""
    if batch.num_rows > 1 and batch.nbytes > BATCH_BYTES:
        half = batch.num_rows // 2
        yield from _parts(batch.slice(0, half))
        yield from _parts(batch.slice(half))
    elif batch.num_rows:
        yield batch


def _texts(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    """Raises ValueError for text that is not UTF-8, which Parquet promises and its readers don't check."""
    columns = []
    for name, column in zip(names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"the column {name} holds values that are not valid: {error}") from None
        columns.append(cell_texts(column).fill_null(""))
    return pa.RecordBatch.from_arrays(columns, names)


if __name__ == "__main__":
    main()
