"""How many rows of a Parquet file may be decoded at once, so that their cells take limited memory.

A text that is stored once, in a column's dictionary, can stand in every row: some kilobytes of Parquet can decode to
terabytes. So the dictionaries are looked at first, which keeps their columns encoded.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

LOOKED_AT_ROWS = 1000


def decodable_rows(path: Path, metadata: pq.FileMetaData, *, max_bytes: int, max_rows: int) -> int:
    """A number of rows, from 1 to ``max_rows``, whose cells take about ``max_bytes`` at most.

    Raises pyarrow's errors for a broken file.
    """
    schema = metadata.schema
    texts = [number for number in range(metadata.num_columns) if schema.column(number).physical_type == "BYTE_ARRAY"]
    paths = [schema.column(number).path for number in texts]
    rows = max_rows
    with pq.ParquetFile(path, read_dictionary=paths, pre_buffer=False) as file:
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            if group.num_rows == 0:
                continue
            row_bytes = group.total_byte_size / group.num_rows
            for column in texts:
                chunk = group.column(column)
                if chunk.num_values * chunk.total_uncompressed_size <= max_bytes / max(len(texts), 1):
                    continue
                values_per_row = chunk.num_values / group.num_rows
                row_bytes += values_per_row * _largest_in_dictionary(file, number, chunk.path_in_schema)
            rows = min(rows, int(max_bytes // max(row_bytes, 1)))
    return max(rows, 1)


def _largest_in_dictionary(file: pq.ParquetFile, row_group: int, path: str) -> int:
    """The bytes of the largest text in a column's dictionary, which comes with the first value."""
    for batch in file.iter_batches(LOOKED_AT_ROWS, row_groups=[row_group], columns=[path], use_threads=False):
        for column in batch.columns:
            found = _dictionary(column, path)
            if found is not None and len(found):
                return int(pc.max(pc.binary_length(found)).as_py() or 0)
    return 0


def _dictionary(column: pa.Array, path: str) -> pa.Array | None:
    """The dictionary at the leaf of a column that was read for this path alone."""
    kind = column.type
    if pt.is_dictionary(kind):
        return column.dictionary
    if pt.is_map(kind):
        keys, items = _dictionary(column.keys, path), _dictionary(column.items, path)
        return keys if path.endswith(".key") and keys is not None else items
    if pt.is_struct(kind):
        return next((found for member in column.flatten() if (found := _dictionary(member, path)) is not None), None)
    return _dictionary(column.values, path) if pt.is_nested(kind) else None
