"""What fields have in common whose value is an object or a list, stored as `jsonb`.

An upload gives the field as a whole, in JSON, or in parts, with dotted headers (`sender.email`, `tags.0`). Each item
may use either way. The same rules apply to both, and their errors name the part.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.json_items import ABSENT, value_column
from batch_pipeline.records import json_text
from batch_pipeline.records.cells import AddErrors, Cells, column_cells, either
from batch_pipeline.records.fields import Field, RuleContext

TWICE = "is given twice, in the whole and by a dotted name: keep one"


@dataclass(frozen=True)
class Nested(Field):
    """A field whose value is an object or a list.

    Attributes:
        has_dotted_headers: flat files can give parts of the field.
    """

    has_dotted_headers: ClassVar[bool] = True
    sql_type: ClassVar[str] = "jsonb"

    def scalars(self) -> Mapping[str, Field]:
        """The parts that are checked together with the item's scalar fields, by their dotted headers."""
        return {}

    def expand(self, cells: dict[str, Cells], count: int, add_errors: AddErrors) -> None:
        """Adds to `cells` the parts (`scalars`) that items give within the whole."""
        del cells, count, add_errors

    @abstractmethod
    def assemble(
        self,
        cells: Mapping[str, Cells],
        values: Mapping[str, pa.Array],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> tuple[pa.StringArray | None, pa.BooleanArray]:
        """The field's values to stage (string, JSON) and the items that clear the whole field (bool).

        `values` has the values of `scalars`, after the rules. A value is null if the item does not give the field.
        Instead of a column of nulls only, None is returned.
        """


def decode_cells(cells: Cells, wanted: type, others: list[int]) -> Iterator[tuple[int, Any]]:
    """Yields the items whose cell is JSON of the wanted type, with the value; appends the other items to `others`.

    One at a time: the garbage collector would visit a kept list of values again and again.
    """
    given = pc.indices_nonzero(pc.is_valid(cells.values))
    for item, text in zip(given.to_pylist(), cells.values.take(given).to_pylist(), strict=True):
        try:
            value = json_text.decode(text)
        except ValueError:
            value = None
        if isinstance(value, wanted):
            yield item, value
        else:
            others.append(item)


def add_wrong_type(field: Field, cells: Cells, items: list[int], add_errors: AddErrors) -> None:
    """Adds an error for each of the items: their cells have a wrong type."""
    wrong = pa.array(items, pa.int64())
    add_errors(wrong, "invalid_type", field.name, field.type_expectation, cells.raw.take(wrong))


class KeyColumns:
    """Collects decoded objects with fixed keys, and returns a column for each key."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._values: dict[str, dict[int, Any]] = {key: {} for key in keys}
        self._unknown: list[tuple[int, str, Any]] = []

    def add(self, place: int, pairs: Mapping[str, Any]) -> None:
        """Adds the object at a place."""
        for key, value in pairs.items():
            name = key.strip()
            if name in self._values:
                self._values[name][place] = value
            else:
                self._unknown.append((place, name, value))

    def cells(self, count: int) -> dict[str, Cells]:
        """The cells of each key that some object has, `count` long; an empty text or null clears."""
        return {key: _scattered(values, count) for key, values in self._values.items() if values}

    def unknown(self) -> tuple[pa.Int64Array, pa.StringArray, pa.StringArray]:
        """The other keys in the objects: places (int64), names (string) and the values' texts (string)."""
        places, names, values = zip(*self._unknown, strict=True) if self._unknown else ((), (), ())
        return pa.array(places, pa.int64()), pa.array(names, pa.string()), value_column(values)[0]


def _scattered(values: dict[int, Any], count: int) -> Cells:
    column: list[Any] = [ABSENT] * count
    for place, value in values.items():
        column[place] = value
    texts, kinds = value_column(column)
    return column_cells(texts, kinds, blank_clears=True)


def merge_cells(cells: dict[str, Cells], name: str, more: Cells, add_errors: AddErrors) -> None:
    """Adds cells under a name that may have cells already. An item with a value in both gets an error."""
    if name in cells:
        both = pc.indices_nonzero(pc.and_(pc.is_valid(cells[name].values), pc.is_valid(more.values)))
        add_errors(both, "conflict", name, TWICE, None)
        more = either(more, cells[name])
    cells[name] = more
