"""Lists of objects with fixed keys (`parcels`). An item's list replaces the stored list."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.json_items import ABSENT, value_column
from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.cells import AddErrors, Cells, constant
from batch_pipeline.records.fields import Field, RuleContext
from batch_pipeline.records.json_text import json_arrays, json_objects, json_values
from batch_pipeline.records.lists import Ints, ListField, at_elements
from batch_pipeline.records.nested import KeyColumns
from batch_pipeline.records.scalars import ScalarRules, of_kinds


@dataclass(frozen=True)
class ObjectList(ListField):
    """A list of objects: a JSON list (also in a cell), or dotted headers (`parcels.0.weight`).

    Elements without values are left out.

    Attributes:
        keys: the fields of each element, named by their keys.
    """

    keys: tuple[Field, ...] = ()

    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.ARRAY})
    type_expectation: ClassVar[str] = "must be a JSON list of objects"

    def key_of(self, header: str) -> str | None:
        """The place and key that a dotted header names (`0.weight`)."""
        split = self.place_in(header)
        if split is None or split[1] not in {key.name for key in self.keys}:
            return None
        return header.removeprefix(f"{self.name}.")

    def takes_default(self, header: str) -> bool:
        """No: a default would add an element to every list."""
        return False

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
        lists = [self._of_whole(found.whole, count, context, add_errors)]
        if found.parts:
            lists.append(self._of_parts(found.parts, count, context, add_errors))
        return found.stored(pc.coalesce(*lists)), found.cleared

    def _of_whole(self, cells: Cells, count: int, context: RuleContext, add_errors: AddErrors) -> pa.StringArray:
        items: list[int] = []
        places: list[int] = []
        columns = KeyColumns(key.name for key in self.keys)
        wrong: list[tuple[int, int, object]] = []
        for item, elements in self.decoded_lists(cells, add_errors):
            for place, element in enumerate(elements):
                if isinstance(element, dict):
                    columns.add(len(items), element)
                    items.append(item)
                    places.append(place)
                elif element is not None:
                    wrong.append((item, place, element))
        wrong_items, wrong_places = (np.array([each[k] for each in wrong], np.int64) for k in (0, 1))
        every = pa.array(range(len(wrong)), pa.int64())
        shown = value_column([element for _, _, element in wrong])[0]
        at_elements(self.name, wrong_items, wrong_places, add_errors)(
            every, "invalid_type", "", "must be an object", shown
        )
        where = np.array(items, np.int64), np.array(places, np.int64)
        unknown, names, shown = columns.unknown()
        at_elements(self.name, *where, add_errors)(
            unknown,
            "unknown_field",
            names,
            f"is not a field of it: use {', '.join(key.name for key in self.keys)}",
            shown,
        )
        return self._judged(where, columns.cells(len(items)), count, context, add_errors)

    def _of_parts(
        self, dotted: Mapping[str, Cells], count: int, context: RuleContext, add_errors: AddErrors
    ) -> pa.StringArray:
        """Every item first gets as many elements as headers name; elements without values are left out later."""
        headers = [(int(key.split(".")[0]), key.split(".")[1], column) for key, column in dotted.items()]
        numbers = sorted({place for place, _, _ in headers})
        absent = value_column([ABSENT] * count)[0]
        columns: dict[str, Cells] = {}
        for key in {key for _, key, _ in headers}:
            by_place = {place: column for place, name, column in headers if name == key}
            none = Cells(absent, constant(False, count), None, absent)
            columns[key] = _one_after_another([by_place.get(place, none) for place in numbers])
        # The columns are in the order of places, and lists need the order of items.
        order = np.arange(count * len(numbers)).reshape(len(numbers), count).T.ravel()
        chosen = pa.array(order)
        where = np.repeat(np.arange(count), len(numbers)), np.tile(np.array(numbers, np.int64), count)
        return self._judged(where, {key: c.take(chosen) for key, c in columns.items()}, count, context, add_errors)

    def _judged(
        self,
        where: tuple[Ints, Ints],
        columns: Mapping[str, Cells],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> pa.StringArray:
        """The lists of the elements, which must be in the order of items; null if no element of an item has a value."""
        if not columns:
            return pa.nulls(count, pa.string())
        add = at_elements(self.name, *where, add_errors)
        fields = {key.name: key for key in self.keys if key.name in columns}
        cells = {name: of_kinds(field, name, columns[name], add) for name, field in fields.items()}
        read = _key_rules(self.keys, context).read(cells, add)
        objects = json_objects(
            {name: json_values(read[name], are_numbers=field.is_number) for name, field in fields.items()}
        )
        kept = objects.is_valid().to_numpy(zero_copy_only=False)
        return json_arrays(where[0][kept], objects.filter(pa.array(kept)), count)


@lru_cache(maxsize=16)
def _key_rules(keys: tuple[Field, ...], context: RuleContext) -> ScalarRules:
    return ScalarRules({key.name: key for key in keys}, context)


def _one_after_another(columns: list[Cells]) -> Cells:
    kinds = None
    if any(column.kinds is not None for column in columns):
        kinds = pa.concat_arrays([column.all_kinds() for column in columns])
    return Cells(
        pa.concat_arrays([column.values for column in columns]),
        pa.concat_arrays([column.cleared for column in columns]),
        kinds,
        pa.concat_arrays([column.raw for column in columns]),
    )
