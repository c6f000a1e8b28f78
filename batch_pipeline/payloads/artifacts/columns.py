"""Which columns ``errors.csv`` has, and how items with nested objects are laid out in them.

An object becomes one dotted column for each value in it (``metadata.colour``), lists stay JSON text. Where
that would not be reversible, or would need too many columns, an object stays in its field's own column as
JSON text.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.flat_header import OWN_COLUMNS
from batch_pipeline.payloads.model import CellKind, RawChunk


def upload_columns(columns: Sequence[str]) -> list[str]:
    """The columns without those that an errors file has itself: no header may have a name twice.

    It is JSON items that can have such fields (and are rejected for it); ``errors.json`` shows them.
    """
    return [name for name in columns if name.strip() not in OWN_COLUMNS]


def flattened_columns(columns: Sequence[str], chunks: Iterable[RawChunk], *, max_columns: int = 500) -> list[str]:
    """The columns of ``errors.csv`` for a JSON upload, to be handed to `ErrorsWriter`.

    Args:
        columns: the top-level fields of the rejected items, in the order in which they were first seen.
        chunks: all rejected items, as they will be written.
        max_columns: the most that a file may have (setting ``max_columns``), to which those that an errors file
            adds do not count. Fields whose keys would exceed it are not flattened, those with the most keys first.

    Returns:
        In the place of each field that occurs as an object: its own column, if some item carries another
        value in it than an object or null, then one for each path in its objects, in first-seen order.
    """
    paths: dict[str, dict[str, None]] = {}
    whole: set[str] = set()  # fields that need their own column
    too_wide: set[str] = set()
    for chunk in chunks:
        for name in chunk.columns:
            is_object = _objects(chunk, name)
            if _carries_other(chunk, name, is_object):
                whole.add(name)
            if is_object is None or name in too_wide:
                continue
            found = paths.setdefault(name, {})
            for _, pairs in _spread_objects(chunk, name, is_object):
                if pairs is None:
                    whole.add(name)
                else:
                    found.update(dict.fromkeys(path for path, _ in pairs))
            if len(found) > max_columns:  # and not kept, or memory would grow with the upload
                too_wide.add(name)
                del paths[name]
    while True:
        flat = _in_order(columns, paths, whole)
        if len(flat) <= max_columns or not paths:
            return flat
        del paths[max(paths, key=lambda name: (len(paths[name]), name))]


def _in_order(columns: Sequence[str], paths: dict[str, dict[str, None]], whole: set[str]) -> list[str]:
    flat: dict[str, None] = {}
    for name in columns:
        if name in whole or not paths.get(name):
            flat[name] = None
        flat.update(paths.get(name, {}))
    return list(flat)


def flat_cells(chunk: RawChunk, columns: Collection[str]) -> dict[str, pa.StringArray]:
    """The items' cells by column of ``errors.csv``, null or '' where there is nothing to show.

    Raises ValueError: an item has a value for which there is no column.
    """
    cells: dict[str, pa.StringArray] = {}
    spread: dict[str, dict[int, str]] = {}
    for name, column in chunk.columns.items():
        is_object = _objects(chunk, name)
        if is_object is None:
            cells[name] = column
            continue
        kept = ~is_object
        for place, pairs in _spread_objects(chunk, name, is_object):
            if pairs is None or not all(path in columns for path, _ in pairs):
                kept[place] = True
                continue
            for path, text in pairs:
                spread.setdefault(path, {})[place] = text
        cells[name] = pc.if_else(pa.array(kept), column, pa.scalar(None, pa.string()))
    for path, by_place in spread.items():
        column = _scattered(by_place, len(chunk.rows))
        cells[path] = pc.coalesce(cells[path], column) if path in cells else column
    for name in [name for name in cells if name not in columns]:
        shown = pc.any(pc.not_equal(cells.pop(name), "")).as_py()
        if shown and name.strip() not in OWN_COLUMNS:
            raise ValueError("rejected items have a field that is none of the errors file's columns")
    return cells


def _scattered(by_place: dict[int, str], count: int) -> pa.StringArray:
    positions = np.full(count, -1, np.int64)
    positions[list(by_place)] = np.arange(len(by_place))
    return pa.array(list(by_place.values()), pa.string()).take(pa.array(positions, mask=positions < 0))


def _objects(chunk: RawChunk, name: str) -> npt.NDArray[np.bool_] | None:
    """Where the field is an object; None if nowhere."""
    kinds = chunk.kinds.get(name)
    if kinds is None:
        return None
    found = _flags(pc.equal(kinds, int(CellKind.OBJECT)))
    return found if found.any() else None


def _carries_other(chunk: RawChunk, name: str, is_object: npt.NDArray[np.bool_] | None) -> bool:
    """Whether some item carries a value in the field that is neither an object nor null."""
    carried = _flags(pc.is_valid(chunk.columns[name]))
    if name in chunk.kinds:
        carried &= ~_flags(pc.equal(chunk.kinds[name], int(CellKind.NULL)))
    return bool((carried if is_object is None else carried & ~is_object).any())


def _beside_dotted(chunk: RawChunk, name: str) -> npt.NDArray[np.bool_]:
    """Where the item also carries a top-level field named like a path in this one: ``metadata.colour``."""
    found = np.zeros(len(chunk.rows), np.bool_)
    for other, column in chunk.columns.items():
        if other.startswith(f"{name}."):
            found |= _flags(pc.is_valid(column))
    return found


def _flags(booleans: pa.BooleanArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(booleans, False).to_numpy(zero_copy_only=False), dtype=np.bool_)


class _Number(str):
    """A JSON number as it is written; converting it could change its digits."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number)


def _spread_objects(
    chunk: RawChunk, name: str, is_object: npt.NDArray[np.bool_]
) -> Iterator[tuple[int, list[tuple[str, str]] | None]]:
    """The position of each object of a field with its `_spread`, or None beside a dotted field of that name."""
    places = np.flatnonzero(is_object)
    whole = _beside_dotted(chunk, name)[places]
    objects = chunk.columns[name].take(pa.array(places)).to_pylist()
    for place, stays, text in zip(places.tolist(), whole.tolist(), objects, strict=True):
        yield place, None if stays else _spread(name, text)


def _spread(field: str, text: str) -> list[tuple[str, str]] | None:
    """The paths in a JSON object and their values' texts.

    None if that is not reversible: no path at all, or one twice (``{"a": {"b": 1}, "a.b": 2}``).
    """
    pairs = list(_walk(field, _DECODER.decode(text)))
    paths = {path for path, _ in pairs}
    return pairs if pairs and len(paths) == len(pairs) else None


def _walk(prefix: str, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, member in value.items():
        path = f"{prefix}.{key}"
        if isinstance(member, dict) and member:
            yield from _walk(path, member)
        elif isinstance(member, str):
            yield path, member
        else:
            yield path, "" if member is None else _compact(member)


def _compact(value: Any) -> str:
    """Decoded JSON as compact text again, with numbers as they were written."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{_compact(key)}:{_compact(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_compact(member) for member in value) + "]"
    return json.dumps(value, ensure_ascii=False)
