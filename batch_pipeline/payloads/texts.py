"""Columns of text as they stand within JSON and CSV files: escaping, quoting, the guard, writing.

All works on whole Arrow string arrays; nulls stay null. What rarely occurs (a quote, a control character) is
looked for in the array's bytes first, which costs a fraction of a replacement that finds nothing.
"""

import itertools
import json
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

# The text that is worked on at once. An Arrow string array holds 2 GiB; escaping makes a text at most six
# times as long, and the last item of a piece may have 4 MiB more.
PIECE_BYTES = 32 << 20

_SHORT_ESCAPES = {0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0C: "\\f", 0x0D: "\\r"}
_QUOTE, _BACKSLASH, _FIRST_PRINTABLE = 0x22, 0x5C, 0x20

# CWE-1236: the characters by which a spreadsheet takes a cell for a formula, and the guard itself, so that
# exactly one apostrophe can be taken off again.
GUARDED = "=+-@\t\r'"
_IS_GUARDED = np.zeros(256, np.bool_)
_IS_GUARDED[list(GUARDED.encode())] = True


def concat(*parts: pa.Array | str) -> pa.StringArray:
    """The parts side by side, element by element; null where a part is. At least one is an array."""
    return pc.binary_join_element_wise(*parts, "")


def concat_present(*parts: pa.Array | str) -> pa.StringArray:
    """As `concat`, a null counting as empty text."""
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="")


def repeat(text: str, count: int) -> pa.StringArray:
    """The same text ``count`` times."""
    return pa.repeat(pa.scalar(text, pa.string()), count)


def json_content(texts: pa.StringArray) -> pa.StringArray:
    """Texts as they stand between the quotes of a JSON string (RFC 8259, section 7)."""
    data = _data(texts)
    if (data == _BACKSLASH).any():  # first, as the other escapes are made with it
        texts = pc.replace_substring(texts, "\\", "\\\\")
    if (data == _QUOTE).any():
        texts = pc.replace_substring(texts, '"', '\\"')
    control = data < _FIRST_PRINTABLE
    if control.any():
        for code in np.unique(data[control]).tolist():
            texts = pc.replace_substring(texts, chr(code), _SHORT_ESCAPES.get(code, f"\\u{code:04x}"))
    return texts


def json_string(text: str) -> str:
    """One text as a JSON string, quotes included."""
    return json.dumps(text, ensure_ascii=False)


def json_strings(texts: pa.StringArray) -> pa.StringArray:
    """Texts as JSON strings, quotes included; ``null`` where the text is null."""
    quoted = concat('"', json_content(texts), '"')
    return pc.fill_null(quoted, "null") if quoted.null_count else quoted


def csv_content(texts: pa.StringArray, *, guarded: bool = True) -> pa.StringArray:
    """Texts as they stand between the quotes of a CSV cell (RFC 4180), guarded against being run."""
    if guarded:
        texts = guard(texts)
    return pc.replace_substring(texts, '"', '""') if (_data(texts) == _QUOTE).any() else texts


def csv_cell(text: str, *, guarded: bool = True) -> str:
    """One text as a CSV cell, quotes included."""
    return f'"{csv_content(pa.array([text], pa.string()), guarded=guarded)[0].as_py()}"'


def without_last_character(texts: pa.StringArray) -> pa.StringArray:
    """The texts less their last character; an empty one stays so."""
    return pc.utf8_slice_codeunits(texts, 0, -1)


def guard(texts: pa.StringArray) -> pa.StringArray:
    """Puts one apostrophe before each text that begins with one of `GUARDED`."""
    offsets, data = _offsets(texts), _data(texts)
    if len(data) == 0:
        return texts
    starts = offsets[:-1] - offsets[0]
    not_empty = offsets[1:] > offsets[:-1]
    # An empty text at the very end starts beyond the data.
    risky = _IS_GUARDED[data[np.minimum(starts, len(data) - 1)]] & not_empty
    return pc.if_else(pa.array(risky), concat("'", texts), texts) if risky.any() else texts


def join_groups(members: pa.StringArray, offsets: npt.NDArray[np.int32], separator: str) -> pa.StringArray:
    """Joins ``members[offsets[i]:offsets[i + 1]]`` for each i."""
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), members), separator)


def write_texts(file: BinaryIO, texts: pa.StringArray) -> None:
    """Writes the texts one after another, as UTF-8, without anything between them. There are no nulls."""
    file.write(_data(texts).data)


def pieces(sizes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cuts texts of these sizes (bytes) into ranges of about `PIECE_BYTES`, never within a text."""
    if len(sizes) == 0:
        return
    group = (np.cumsum(sizes) - sizes) // PIECE_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(sizes)]
    yield from itertools.pairwise(cuts)


def byte_sizes(texts: pa.StringArray) -> npt.NDArray[np.int64]:
    """The size of each text in UTF-8; 0 for null."""
    return np.asarray(pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _offsets(texts: pa.StringArray) -> npt.NDArray[np.int32]:
    buffer = texts.buffers()[1]
    if len(texts) == 0 or buffer is None:
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _data(texts: pa.StringArray) -> npt.NDArray[np.uint8]:
    """The UTF-8 of all texts together; where a text is null, bytes may stand that mean nothing."""
    buffer = texts.buffers()[2]
    if len(texts) == 0 or buffer is None:
        return np.zeros(0, np.uint8)
    offsets = _offsets(texts)
    return np.frombuffer(buffer, np.uint8)[offsets[0] : offsets[-1]]
