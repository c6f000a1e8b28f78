"""Finds items that are equal in every field (after trimming and NFC), and lists the rows to drop.

Each item is reduced to 128 bits by SipHash under two random keys. Of equal items in one chunk only the one to keep is
spilled to disk, by its leading bits, into partitions that are compared one by one. So a partition has at most one entry
for each distinct item of each chunk, however many items are equal. With 50,000,000 items the chance that two different
ones are taken for equal is below 1e-22.
"""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch_pipeline.payloads.model import CellKind, RawChunk
from batch_pipeline.payloads.parsed import select
from batch_pipeline.values.text import clean_texts, has_byte

# 50,000,000 items of 24 bytes make partitions of 19 MB.
PARTITIONS = 64
_SHIFT = np.uint64(64 - 6)
_ENTRY = np.dtype([("high", np.uint64), ("low", np.uint64), ("row", np.int64)])
_ROWS_AT_ONCE = 1 << 18  # in a list of rows: 2 MiB
_LISTED = pa.schema([pa.field("row", pa.int64(), nullable=False)])

# Within an item's joined text the escape character introduces what isn't text; the texts' own is doubled by a zero.
_ESCAPE = "\x1b"
_SEPARATOR = _ESCAPE + "1"
_FIELD = _ESCAPE + "2"
_KIND = _ESCAPE + "3"

Rows = npt.NDArray[np.int64]


class EqualItems:
    """Collects a payload's items and finds those that repeat another.

    Memory: one chunk or one partition at a time, and one bit for each row of the payload.

    Args:
        folder: an existing folder for its files.
        fields_vary: items need not carry every column (JSON).
        keep_last: of each set of equal items the last one stays, not the first.
    """

    def __init__(self, folder: Path, *, fields_vary: bool, keep_last: bool) -> None:
        self._folder = folder
        self._fields_vary = fields_vary
        self._keep_last = keep_last
        self._keys = [secrets.token_hex(8) for _ in range(2)]
        self._files: dict[int, IO[bytes]] = {}  # by partition, made when needed: a small batch fills few
        # Of the first chunk, until there is another: one chunk has nothing to be compared with.
        self._only: npt.NDArray[np.void] | None = None
        self._dropped = np.zeros(0, np.uint8)  # one bit for each row: 6 MB for 50,000,000 rows

    def add(self, chunk: RawChunk) -> None:
        """Takes in a chunk's readable items. Chunks come in the order of their rows."""
        if len(chunk.rows) == 0:
            return
        joined = _joined(chunk, fields_vary=self._fields_vary)
        # As bytes: pandas would encode each str anew for each key, which takes half of the time of a chunk.
        texts = np.asarray(joined.cast(pa.binary()).to_numpy(zero_copy_only=False), dtype=object)
        entries = np.empty(len(texts), _ENTRY)
        for name, key in zip(("high", "low"), self._keys, strict=True):
            entries[name] = pd.util.hash_array(texts, hash_key=key, categorize=False)
        entries["row"] = chunk.rows.to_numpy()
        self._dropped.resize(int(entries["row"][-1]) // 8 + 1, refcheck=False)  # fills with zeros
        distinct = entries[~self._drop_repeats(entries)]
        if self._only is None and not self._files:
            self._only = distinct
            return
        if self._only is not None:
            self._spill(self._only)
            self._only = None
        self._spill(distinct)

    def repeated_rows(self) -> Iterator[Rows]:
        """The rows to drop, ascending, in arrays of at most 262,144; called once, after all chunks were added."""
        for file in self._files.values():
            file.seek(0)
            self._drop_repeats(np.frombuffer(file.read(), _ENTRY))
        for start in range(0, len(self._dropped), _ROWS_AT_ONCE // 8):
            bits = self._dropped[start : start + _ROWS_AT_ONCE // 8]
            rows = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
            if len(rows):
                yield rows + 8 * start

    def close(self) -> None:
        """Closes and removes the files."""
        for number, file in self._files.items():
            file.close()
            self._path(number).unlink(missing_ok=True)

    def _drop_repeats(self, entries: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        """Marks the rows of entries that repeat another of these; returns which entries those are."""
        repeats = np.zeros(len(entries), np.bool_)
        # Most items are distinct. To sort only those whose first half repeats takes an eighth of sorting all.
        candidates = np.flatnonzero(pd.Series(entries["high"]).duplicated(keep=False).to_numpy())
        if len(candidates) == 0:
            return repeats
        found = entries[candidates]
        order = np.lexsort((found["row"], found["low"], found["high"]))
        found, candidates = found[order], candidates[order]
        same = (found["high"][1:] == found["high"][:-1]) & (found["low"][1:] == found["low"][:-1])
        repeats[candidates[:-1][same] if self._keep_last else candidates[1:][same]] = True
        rows = entries["row"][repeats]
        np.bitwise_or.at(self._dropped, rows >> 3, np.uint8(1) << (rows & 7).astype(np.uint8))
        return repeats

    def _spill(self, entries: npt.NDArray[np.void]) -> None:
        places = (entries["high"] >> _SHIFT).astype(np.uint8)  # of one byte, so that numpy sorts by radix
        entries = entries[np.argsort(places, kind="stable")]
        bounds = np.concatenate(([0], np.cumsum(np.bincount(places, minlength=PARTITIONS))))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            self._file(number).write(entries[bounds[number] : bounds[number + 1]].tobytes())

    def _file(self, number: int) -> IO[bytes]:
        if number not in self._files:
            self._files[number] = self._path(number).open("w+b")
        return self._files[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"equal-{number:02}"


def write_rows(path: Path, lists: Iterable[Rows]) -> int:
    """Writes ascending row numbers to a Parquet file with the one column `row`, int64. Returns how many there are.

    Makes no file if there are none.
    """
    count = 0
    with ExitStack() as opened:
        writer: pq.ParquetWriter | None = None
        for rows in lists:
            if writer is None:
                writer = opened.enter_context(
                    pq.ParquetWriter(
                        path, _LISTED, compression="lz4", use_dictionary=False, column_encoding="DELTA_BINARY_PACKED"
                    )
                )
            writer.write_batch(pa.record_batch([pa.array(rows)], schema=_LISTED))
            count += len(rows)
    return count


class RowReader:
    """Reads parts of a file of `write_rows`. For one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        metadata = self._file.metadata
        bounds = [metadata.row_group(number).column(0).statistics for number in range(metadata.num_row_groups)]
        self._first = np.array([each.min for each in bounds], np.int64)
        self._last = np.array([each.max for each in bounds], np.int64)

    def between(self, first: int, last: int) -> pa.Int64Array:
        """The rows from `first` to `last`, both included."""
        groups = np.flatnonzero((self._first <= last) & (self._last >= first)).tolist()
        rows = self._file.read_row_groups(groups)["row"].to_numpy()
        return pa.array(rows[np.searchsorted(rows, first) : np.searchsorted(rows, last, side="right")])


def without_rows(chunk: RawChunk, dropped: RowReader) -> RawChunk:
    """The chunk without the readable rows that `dropped` lists."""
    if len(chunk.rows) == 0:
        return chunk
    rows = dropped.between(chunk.rows[0].as_py(), chunk.rows[-1].as_py())
    return chunk if len(rows) == 0 else select(chunk, pc.invert(pc.is_in(chunk.rows, value_set=rows)))


def _joined(chunk: RawChunk, *, fields_vary: bool) -> pa.StringArray:
    """One text per item, equal exactly where the items are."""
    parts = []
    for name in sorted(chunk.columns):  # chunks of JSON items may have the columns in another order
        text = clean_texts(chunk.columns[name])
        if has_byte(text, ord(_ESCAPE)):
            text = pc.replace_substring(text, _ESCAPE, _ESCAPE + "0")
        kinds = chunk.kinds.get(name)
        if kinds is not None:
            marked = pc.binary_join_element_wise(text, kinds.cast(pa.string()), _KIND)
            text = pc.if_else(pc.not_equal(kinds, int(CellKind.TEXT)), marked, text)
        if fields_vary:
            # A field that is not carried leaves no trace: other chunks may not have its column at all.
            label = _FIELD + name.replace(_ESCAPE, _ESCAPE + "0")
            text = pc.fill_null(pc.binary_join_element_wise(label, text, _SEPARATOR), "")
        parts.append(text)
    if not parts:  # items without any field
        return pa.repeat(pa.scalar("", pa.string()), len(chunk.rows))
    return pc.binary_join_element_wise(*parts, "" if fields_vary else _SEPARATOR)
