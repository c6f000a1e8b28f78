"""JSON items: decoding one item, what rejects an item alone, and items as columns.

Shared by the readers of JSON arrays and NDJSON. Numbers keep their text: a float would change them.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from json.encoder import encode_basestring
from typing import Any

import pyarrow as pa

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import Unreadable
from batch_pipeline.payloads.model import CellKind, RawChunk, ReadLimits

# Nested values are written by a recursive function; beyond this a setting could exhaust Python's stack.
DEEPEST = 200

# The decoder reports NaN and Infinity without a position: strings are matched too, so that text in them is skipped.
_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*+"|(NaN|-?Infinity)')


class ItemLimitError(Exception):
    """An item is larger or nested deeper than the limits allow. The text names the limit and its setting."""


class _ConstantError(Exception):
    """The text has a constant that RFC 8259 does not have: NaN, Infinity or -Infinity."""


class JsonNumber(str):
    """A number, as written."""

    __slots__ = ()


class _Absent:
    """The type of what stands for a field that an item does not carry."""


ABSENT = _Absent()
_KINDS: dict[type, int | None] = {
    str: CellKind.TEXT.value,
    type(None): CellKind.NULL.value,
    JsonNumber: CellKind.NUMBER.value,
    bool: CellKind.BOOLEAN.value,
    list: CellKind.ARRAY.value,
    dict: CellKind.OBJECT.value,
    _Absent: None,
}


class ItemDecoder:
    """Decodes items and finds what rejects one alone."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._repeated: list[str] = []
        self._max_depth = min(limits.max_json_depth, DEEPEST)
        self._raw_decode = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_float=JsonNumber,
            parse_int=JsonNumber,
            parse_constant=_refuse_constant,
        ).raw_decode
        # Shorter texts can break no limit on size, whatever their characters.
        self._harmless_characters = min(limits.max_cell_bytes, limits.max_item_bytes) // 4

    def decode(self, text: str, start: int) -> tuple[Any, int]:
        """The value that begins at ``start``, which is no blank, and where it ends.

        Raises JSONDecodeError, with the position and what was expected there, where the text breaks RFC 8259 or ends;
        ItemLimitError where the decoder can't follow the nesting, which is far over the limit.
        """
        self._repeated.clear()
        try:
            return self._raw_decode(text, start)
        except _ConstantError:
            found = (match for match in _STRING_OR_CONSTANT.finditer(text, start) if match[1])
            raise json.JSONDecodeError("Expecting value", text, next(found).start()) from None
        except RecursionError:
            raise ItemLimitError(self._depth_fault()) from None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        item = dict(pairs)
        if len(item) != len(pairs):
            self._repeated += [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        return item

    def fault(self, item: Any, text: str, start: int, end: int, *, may_have_surrogates: bool) -> str | None:
        """What rejects the item just decoded from ``text[start:end]`` alone, or None.

        Raises ItemLimitError.
        """
        brackets = text.count("{", start, end) + text.count("[", start, end)
        if brackets > self._max_depth and depth_of(item) > self._max_depth:
            raise ItemLimitError(self._depth_fault())
        is_large = end - start > self._harmless_characters
        if is_large and utf8_size(text[start:end]) > self._limits.max_item_bytes:
            raise ItemLimitError(self.size_fault())
        if self._repeated:
            names = ", ".join(dict.fromkeys(json.dumps(name) for name in self._repeated))
            return f"the item has a field more than once: {names}; keep one"
        if type(item) is not dict:
            return f'the item is {_name(item)}, not an object: write it as {{"field": value, …}}'
        if may_have_surrogates and (fault := _surrogate_fault(item)):
            return fault
        return self._cell_fault(item) if is_large else None

    def _depth_fault(self) -> str:
        return (
            f"the item is nested deeper than {self._max_depth} levels, the most that an item may have "
            f"(setting BATCH_MAX_JSON_DEPTH, up to {DEEPEST})"
        )

    def size_fault(self) -> str:
        """The fault of an item that is too large."""
        return (
            f"the item is larger than {self._limits.max_item_bytes:,} bytes, the most that an item may have "
            "(setting BATCH_MAX_ITEM_BYTES)"
        )

    def _cell_fault(self, item: dict[str, Any]) -> str | None:
        for name, value in item.items():
            if utf8_size(cell_text(value)) > self._limits.max_cell_bytes:
                return (
                    f"the value of {json.dumps(name)[:200]} is larger than {self._limits.max_cell_bytes:,} "
                    "bytes, the most that a cell may have (setting BATCH_MAX_CELL_BYTES)"
                )
        return None


def _refuse_constant(name: str) -> None:
    raise _ConstantError(name)


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", JsonNumber: "a number", bool: "a boolean"}
    return names.get(type(value), "null")


def depth_of(value: Any) -> int:
    """How deep arrays and objects are nested: 0 for a plain value, 1 for one that holds plain values only."""
    depth = 0
    level = [value]
    while level := [inner for inner in level if type(inner) is dict or type(inner) is list]:
        depth += 1
        level = list(chain.from_iterable(part.values() if type(part) is dict else part for part in level))
    return depth


def _surrogate_fault(item: dict[str, Any]) -> str | None:
    for name, value in item.items():
        try:
            (name + cell_text(value)).encode()
        except UnicodeEncodeError:
            return f"the field {json.dumps(name)[:200]} has half a surrogate pair (\\uD800 to \\uDFFF): no text"
    return None


def utf8_size(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def cell_text(value: Any) -> str:
    """The text of a value in a column: a string itself, '' for null, else its compact JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else compact_json(value)


def compact_json(value: Any) -> str:
    """JSON without blanks, numbers as written; nesting is limited by what was accepted before."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is JsonNumber:
        return str(value)
    if kind is dict:
        return "{" + ",".join([f"{encode_basestring(k)}:{compact_json(v)}" for k, v in value.items()]) + "}"
    if kind is list:
        return "[" + ",".join([compact_json(v) for v in value]) + "]"
    if value is None:
        return "null"
    return "true" if value else "false"


class ChunkBuilder:
    """Collects items until they are made a chunk, and keeps the limit on distinct fields over all chunks."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._fields: set[str] = set()
        self.rows: list[int] = []
        self.items: list[dict[str, Any]] = []
        self.unreadable = Unreadable()

    @property
    def count(self) -> int:
        """Rows collected, unreadable ones included."""
        return len(self.rows) + len(self.unreadable.rows)

    def build(self) -> RawChunk:
        """The chunk of all that was collected, which is then forgotten. Raises RefusedError ``too_large``."""
        rows, items = self.rows, self.items
        names = list(dict.fromkeys(chain.from_iterable(items)))
        self._fields.update(names)
        if len(self._fields) > self._limits.max_columns:
            raise RefusedError(
                "too_large",
                f"The items have more than {self._limits.max_columns:,} different fields, the most that "
                "a file may have (setting BATCH_MAX_COLUMNS).",
            )
        columns: dict[str, pa.StringArray] = {}
        kinds: dict[str, pa.UInt8Array] = {}
        for name in names:
            columns[name], kind = value_column([item.get(name, ABSENT) for item in items])
            if kind is not None:
                kinds[name] = kind
        chunk = RawChunk(pa.array(rows, pa.int64()), columns, kinds, self.unreadable.take(None))
        self.rows, self.items = [], []
        return chunk


def value_column(values: Sequence[Any]) -> tuple[pa.StringArray, pa.UInt8Array | None]:
    """The texts and kinds (`RawChunk.columns` and `kinds`) of decoded values, numbers being `JsonNumber`."""
    types = set(map(type, values))
    if types == {str}:
        return pa.array(values, pa.string()), None
    if types <= {str, _Absent}:
        return pa.array([None if value is ABSENT else value for value in values], pa.string()), None
    texts = [None if value is ABSENT else cell_text(value) for value in values]
    return pa.array(texts, pa.string()), pa.array([_KINDS[type(value)] for value in values], pa.uint8())
