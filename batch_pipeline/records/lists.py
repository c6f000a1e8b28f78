"""Lists of texts or numbers (`tags`, `coordinates`). An item's list replaces the stored list.

All elements are in one long table, so a cell (`a,b` or `["a","b"]`), a JSON list and dotted headers (`tags.0`) have
the same rules.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.json_items import value_column
from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.cells import AddErrors, Cells, column_cells, constant
from batch_pipeline.records.fields import Field, RuleContext
from batch_pipeline.records.json_text import json_arrays, json_values
from batch_pipeline.records.nested import TWICE, Nested, add_wrong_type, decode_cells
from batch_pipeline.records.scalars import ScalarRules, of_kinds

# The limit for every list, whatever its field allows: a large item could have a million wrong elements.
MOST_ELEMENTS = 1_000

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Elements:
    """The elements of a chunk's lists, one after another.

    Attributes:
        items: int64, the element's item.
        places: int64, its place in the list, from 0.
        raw: string, its text as uploaded.
        kinds: uint8 of `CellKind`.
    """

    items: Ints
    places: Ints
    raw: pa.StringArray
    kinds: pa.UInt8Array


@dataclass(frozen=True)
class GivenLists:
    """The cells in which a list field is given.

    Attributes:
        whole: each list in one cell; null if the item does not give it so.
        parts: the cells of dotted headers, by the named part of the field.
        given: bool, the item gives a list.
        cleared: bool, the item clears the field.
    """

    whole: Cells
    parts: Mapping[str, Cells]
    given: pa.BooleanArray
    cleared: pa.BooleanArray

    def stored(self, lists: pa.StringArray) -> pa.StringArray:
        """The lists to stage: `lists`, and `[]` for items whose list is empty."""
        return pc.coalesce(lists, pc.if_else(self.given, "[]", pa.scalar(None, pa.string())))


@dataclass(frozen=True)
class ListField(Nested):
    """What lists have in common.

    Attributes:
        max_items: maximum number of elements.
    """

    max_items: int = MOST_ELEMENTS

    @property
    def initial(self) -> str | None:
        """No elements."""
        return "[]"

    def place_in(self, header: str) -> tuple[int, str] | None:
        """The place that a dotted header names, and the rest of the header (`''` if nothing follows)."""
        prefix = f"{self.name}."
        place, dot, rest = header.removeprefix(prefix).partition(".")
        is_index = place.isascii() and place.isdecimal() and (place == "0" or place[0] != "0")
        if not header.startswith(prefix) or not is_index or bool(dot) != bool(rest) or len(place) > 3:
            return None
        return int(place), rest

    @property
    def most(self) -> str:
        """Error text for a list that is too long."""
        return f"has more than {self.max_items:,} elements"

    def given(self, cells: Mapping[str, Cells], count: int, add_errors: AddErrors) -> "GivenLists":
        """The cells in which the field is given. Adds an error for items that use both ways."""
        nothing = constant(False, count)
        whole = cells.get(self.name, Cells(pa.nulls(count, pa.string()), nothing, None, pa.nulls(count, pa.string())))
        parts = {key: cells[name] for name in cells if (key := self.key_of(name)) is not None}
        in_whole = pc.is_valid(whole.values)
        in_parts = reduce(pc.or_, (pc.is_valid(part.values) for part in parts.values()), nothing)
        add_errors(pc.indices_nonzero(pc.and_(in_whole, in_parts)), "conflict", self.name, TWICE, None)
        given = pc.or_(in_whole, in_parts)
        cleared = reduce(pc.or_, (part.cleared for part in parts.values()), whole.cleared)
        return GivenLists(whole, parts, given, pc.and_not(cleared, given))

    def decoded_lists(self, cells: Cells, add_errors: AddErrors) -> Iterator[tuple[int, list[Any]]]:
        """Yields the items whose cell is a JSON list, with the list. A list over `MOST_ELEMENTS` is only an error."""
        others: list[int] = []
        long: list[int] = []
        for item, elements in decode_cells(cells, list, others):
            if len(elements) <= MOST_ELEMENTS:
                yield item, elements
            else:
                long.append(item)
        add_wrong_type(self, cells, others, add_errors)
        self.too_many(long, add_errors)

    def too_many(self, items: Iterable[int], add_errors: AddErrors) -> None:
        """Adds an error for each of the items: its list is too long."""
        add_errors(pa.array(items, pa.int64()), "too_many", self.name, self.most, None)


@dataclass(frozen=True)
class ScalarList(ListField):
    """A list of values of one kind each: one cell comma-separated or a JSON array, a JSON list, or dotted headers.

    Attributes:
        elements: the fields of the elements, by place; the last one is for all further elements as well.
        min_items: minimum number of elements.
        distinct: only the first of equal elements is kept.
    """

    elements: tuple[Field, ...] = ()
    min_items: int = 0
    distinct: bool = False

    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.ARRAY, CellKind.TEXT})
    type_expectation: ClassVar[str] = "must be a list, or a text of values with commas between them"

    @property
    def initial(self) -> str | None:
        """No elements, if an empty list is allowed."""
        return "[]" if self.min_items == 0 else None

    def key_of(self, header: str) -> str | None:
        """The place that a dotted header names."""
        split = self.place_in(header)
        return str(split[0]) if split is not None and not split[1] else None

    def assemble(
        self,
        cells: Mapping[str, Cells],
        values: Mapping[str, pa.Array],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> tuple[pa.StringArray | None, pa.BooleanArray]:
        """Each item's list, as a JSON array."""
        del values
        found = self.given(cells, count, add_errors)
        is_json = pc.fill_null(pc.starts_with(found.whole.values, "["), False)
        in_json, readable = self._of_lists(found.whole.take_valid(is_json), add_errors)
        in_text = self._of_texts(found.whole.take_valid(pc.invert(is_json)).values, add_errors)
        parts = [_of_part(int(place), part) for place, part in found.parts.items()]
        judged = found.given.to_numpy(zero_copy_only=False) & ~is_json.to_numpy(zero_copy_only=False)
        judged[readable] = True
        return found.stored(self._judged([in_json, in_text, *parts], judged, context, add_errors)), found.cleared

    def _of_lists(self, cells: Cells, add_errors: AddErrors) -> tuple[Elements, Ints]:
        """The elements of JSON lists, and the items that have a JSON list."""
        items: list[int] = []
        lengths: list[int] = []
        values: list[Any] = []
        for item, elements in self.decoded_lists(cells, add_errors):
            items.append(item)
            lengths.append(len(elements))
            values += elements
        raw, kinds = value_column(values)
        of = np.repeat(np.arange(len(items)), np.array(lengths, np.int64))
        places = np.arange(len(of)) - np.cumsum([0, *lengths])[of]
        readable = np.array(items, np.int64)
        return Elements(readable[of], places, raw, _texts(len(raw)) if kinds is None else kinds), readable

    def _of_texts(self, texts: pa.StringArray, add_errors: AddErrors) -> Elements:
        """The elements of comma-separated texts."""
        items = pc.indices_nonzero(pc.is_valid(texts)).cast(pa.int64())
        texts = texts.take(items)
        is_short = pc.less(pc.count_substring(texts, ","), MOST_ELEMENTS)
        self.too_many(items.filter(pc.invert(is_short)).to_pylist(), add_errors)
        split = pc.split_pattern(texts.filter(is_short), ",")
        of = pc.list_parent_indices(split).to_numpy()
        places = np.arange(len(of)) - split.offsets.to_numpy()[of]
        return Elements(items.filter(is_short).to_numpy()[of], places, split.flatten(), _texts(len(of)))

    def _judged(
        self, parts: list[Elements], given: npt.NDArray[np.bool_], context: RuleContext, add_errors: AddErrors
    ) -> pa.StringArray:
        """The lists of valid elements; null if an item has none. `given`: the items that give a list."""
        count = len(given)
        elements = _sorted(parts)
        items, places = elements.items, elements.places
        cells = column_cells(elements.raw, elements.kinds, blank_clears=False)
        counts = np.bincount(items, minlength=count)
        few = given & (counts < self.min_items)
        add_errors(
            pa.array(np.flatnonzero(few)),
            "invalid_format",
            self.name,
            f"has fewer than {self.min_items} elements",
            None,
        )
        self.too_many(np.flatnonzero(counts > self.max_items).tolist(), add_errors)
        texts = pa.nulls(len(items), pa.string())
        for number, (field, rules) in enumerate(_element_rules(self.elements, context)):
            is_last = number == len(self.elements) - 1
            mask = places >= number if is_last else places == number
            chosen = pa.array(np.flatnonzero(mask))
            add = at_elements(self.name, items[mask], places[mask], add_errors)
            here = of_kinds(field, "", cells.take(chosen), add)
            judged = json_values(rules.read({"": here}, add)[""], are_numbers=field.is_number)
            texts = pc.replace_with_mask(texts, pa.array(mask), judged)
        kept = texts.is_valid().to_numpy(zero_copy_only=False)
        if self.distinct:
            kept &= _first_of_equals(items, texts)
        return json_arrays(items[kept], texts.filter(pa.array(kept)), count)


def at_elements(name: str, items: Ints, places: Ints, add_errors: AddErrors) -> AddErrors:
    """An `AddErrors` for a table of elements: adds the errors to the items, with dotted paths (`tags.1`)."""

    def add(
        elements: pa.Array, code: str, field: str | pa.StringArray, expectation: str, values: pa.StringArray | None
    ) -> None:
        chosen = elements.to_numpy()
        paths = pc.binary_join_element_wise(name, pa.array(places[chosen]).cast(pa.string()), ".")
        if field != "":
            paths = pc.binary_join_element_wise(paths, field, ".")
        add_errors(pa.array(items[chosen]), code, paths, expectation, values)

    return add


@lru_cache(maxsize=64)
def _element_rules(fields: tuple[Field, ...], context: RuleContext) -> tuple[tuple[Field, ScalarRules], ...]:
    return tuple((field, ScalarRules({"": field}, context)) for field in fields)


def _of_part(place: int, cells: Cells) -> Elements:
    given = pc.indices_nonzero(pc.is_valid(cells.values)).cast(pa.int64())
    cells = cells.take(given)
    return Elements(given.to_numpy(), np.full(len(given), place, np.int64), cells.values, cells.all_kinds())


def _sorted(parts: list[Elements]) -> Elements:
    """The elements that have a value, sorted by item and place."""
    items = np.concatenate([part.items for part in parts])
    places = np.concatenate([part.places for part in parts])
    raw = pa.concat_arrays([part.raw for part in parts])
    kinds = pa.concat_arrays([part.kinds for part in parts])
    present = column_cells(raw, kinds, blank_clears=False).values.is_valid().to_numpy(zero_copy_only=False)
    order = np.lexsort((places, items))
    order = order[present[order]]
    chosen = pa.array(order)
    return Elements(items[order], places[order], raw.take(chosen), kinds.take(chosen))


def _first_of_equals(items: Ints, texts: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Mask of the elements that have no equal before them in the same item."""
    codes = pc.fill_null(texts.dictionary_encode().indices, -1).to_numpy()
    first = np.zeros(len(items), np.bool_)
    first[np.unique(np.stack([items, codes]), axis=1, return_index=True)[1]] = True
    return first


def _texts(count: int) -> pa.UInt8Array:
    return pa.repeat(pa.scalar(int(CellKind.TEXT), pa.uint8()), count)
