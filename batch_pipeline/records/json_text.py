"""Composes whole columns of JSON texts, and reads JSON texts with their numbers as written."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.json_items import JsonNumber

_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"))
_SCAN: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(  # five times as slow as orjson, but exact
    parse_float=JsonNumber, parse_int=JsonNumber
).scan_once  # type: ignore[attr-defined] # typeshed lacks it
_WITHOUT_NUMBERS = (str, bool, type(None))


def decode(text: str) -> Any:
    """The value of a trimmed JSON text, numbers as `JsonNumber`. Raises ValueError if it is not JSON."""
    value = orjson.loads(text)  # refuses NaN and lone surrogates, which the decoder below accepts
    parts = value.values() if type(value) is dict else value if type(value) is list else (value,)
    if all(type(part) in _WITHOUT_NUMBERS for part in parts):
        return value
    try:
        return _SCAN(text, 0)[0]
    except RecursionError:
        raise ValueError("nested too deep") from None


def escaped(texts: pa.StringArray) -> pa.StringArray:
    """Texts as the contents of JSON strings. Rules have rejected other control characters before."""
    for character, escape in _ESCAPES:
        texts = pc.replace_substring(texts, character, escape)
    return texts


def json_values(values: pa.Array, *, are_numbers: bool = False) -> pa.StringArray:
    """Each value as JSON (string): quoted texts, numbers, true or false; null for null."""
    if pa.types.is_string(values.type) and not are_numbers:
        return pc.binary_join_element_wise('"', escaped(values), '"', "")
    return values.cast(pa.string())


def json_objects(members: dict[str, pa.StringArray]) -> pa.StringArray:
    """One JSON object for each place, without the names whose value is null; null if all are."""
    if not members:
        raise ValueError("objects need at least one name that they may have")
    # null_handling="skip" of pyarrow 26 would leave out the rows in which all values are null.
    parts = [
        pc.fill_null(pc.binary_join_element_wise(f"{json.dumps(name)}: ", member, ", ", ""), "")
        for name, member in members.items()
    ]
    joined = pc.utf8_slice_codeunits(pc.binary_join_element_wise(*parts, ""), 0, -2)
    joined = pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)
    return pc.binary_join_element_wise("{", joined, "}", "")


def json_arrays(items: npt.NDArray[np.int64], elements: pa.StringArray, count: int) -> pa.StringArray:
    """One JSON array for each of `count` items; null if it has no elements.

    `items` has the item of each element, ascending.
    """
    return grouped(items, elements, count, "[", "]")


def grouped(
    items: npt.NDArray[np.int64], parts: pa.StringArray, count: int, opening: str, closing: str
) -> pa.StringArray:
    """The parts of each item, joined by commas, in brackets; null if the item has none. `items` is ascending."""
    if len(parts) == 0:
        return pa.nulls(count, pa.string())
    starts = np.flatnonzero(np.concatenate(([True], items[1:] != items[:-1])))
    offsets = np.append(starts, len(items)).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), parts), ", ")
    joined = pc.binary_join_element_wise(opening, joined, closing, "")
    places = np.full(count, -1, np.int64)
    places[items[starts]] = np.arange(len(starts))
    return joined.take(pa.array(places, mask=places < 0))
