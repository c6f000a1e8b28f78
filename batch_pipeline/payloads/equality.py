"""Finds items that are equal in every field (after trimming and NFC), on disk, so memory does not grow with the file.

Each item is reduced to 128 bits by SipHash under two random keys, spilled by its leading bits into partitions that
are compared one by one. With 50,000,000 items the chance that two different ones are taken for equal is below 1e-22.
"""

import secrets
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind, RawChunk
from batch_pipeline.values.text import clean_texts

# 50,000,000 items of 24 bytes make partitions of 19 MB.
PARTITIONS = 64
_SHIFT = np.uint64(64 - 6)
_ENTRY = np.dtype([("high", np.uint64), ("low", np.uint64), ("row", np.int64)])

# Within an item's joined text the escape character introduces what isn't text; the texts' own is doubled by a zero.
_ESCAPE = "\x1b"
_SEPARATOR = _ESCAPE + "1"
_FIELD = _ESCAPE + "2"
_KIND = _ESCAPE + "3"


class EqualItems:
    """Collects a payload's items and tells which repeat another.

    Its files lie in `folder`, which must exist. `fields_vary` says that items need not carry every column (JSON).
    """

    def __init__(self, folder: Path, *, fields_vary: bool) -> None:
        self._folder = folder
        self._fields_vary = fields_vary
        self._keys = [secrets.token_hex(8) for _ in range(2)]
        self._files: dict[int, IO[bytes]] = {}  # by partition, made when needed: a small batch fills few

    def add(self, chunk: RawChunk) -> None:
        """Takes in a chunk's readable items."""
        if len(chunk.rows) == 0:
            return
        texts = np.asarray(_joined(chunk, fields_vary=self._fields_vary).to_numpy(zero_copy_only=False), dtype=object)
        entries = np.empty(len(texts), _ENTRY)
        for name, key in zip(("high", "low"), self._keys, strict=True):
            entries[name] = pd.util.hash_array(texts, hash_key=key, categorize=False)
        entries["row"] = chunk.rows.to_numpy()
        places = (entries["high"] >> _SHIFT).astype(np.uint8)  # of one byte, so that numpy sorts by radix
        entries = entries[np.argsort(places, kind="stable")]
        bounds = np.concatenate(([0], np.cumsum(np.bincount(places, minlength=PARTITIONS))))
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            self._file(number).write(entries[bounds[number] : bounds[number + 1]].tobytes())

    def repeated_rows(self, *, keep_last: bool) -> npt.NDArray[np.int64]:
        """The rows to drop, ascending: of each set of equal items all but the first (or the last)."""
        found = [self._repeated_in(file, keep_last=keep_last) for file in self._files.values()]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def close(self) -> None:
        """Closes and removes the files."""
        for number, file in self._files.items():
            file.close()
            self._path(number).unlink(missing_ok=True)

    def _file(self, number: int) -> IO[bytes]:
        if number not in self._files:
            self._files[number] = self._path(number).open("w+b")
        return self._files[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"equal-{number:02}"

    @staticmethod
    def _repeated_in(file: IO[bytes], *, keep_last: bool) -> npt.NDArray[np.int64]:
        file.seek(0)
        entries = np.frombuffer(file.read(), _ENTRY)
        entries = entries[np.lexsort((entries["row"], entries["low"], entries["high"]))]
        same = (entries["high"][1:] == entries["high"][:-1]) & (entries["low"][1:] == entries["low"][:-1])
        dropped = np.zeros(len(entries), np.bool_)
        if keep_last:
            dropped[:-1] = same
        else:
            dropped[1:] = same
        return np.ascontiguousarray(entries["row"][dropped])


def _joined(chunk: RawChunk, *, fields_vary: bool) -> pa.StringArray:
    """One text per item, equal exactly where the items are."""
    parts = []
    for name in sorted(chunk.columns):  # chunks of JSON items may have the columns in another order
        text = pc.replace_substring(clean_texts(chunk.columns[name]), _ESCAPE, _ESCAPE + "0")
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
