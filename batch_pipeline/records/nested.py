"""What kinds of fields have in common whose value is an object or a list, stored as `jsonb`.

An upload gives such a field as JSON (a whole), or by dotted headers (parts: `sender.email`, `tags.0`). Each item may
use the one way or the other, and both obey the same rules, whose errors name the part.
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
        has_dotted_headers: whether flat files can give parts of it.
    """

    has_dotted_headers: ClassVar[bool] = True
    sql_type: ClassVar[str] = "jsonb"

    def scalars(self) -> Mapping[str, Field]:
        """The parts that are judged together with the item's fields of one value, by their dotted headers."""
        return {}

    def expand(self, cells: dict[str, Cells], count: int, add_errors: AddErrors) -> None:
        """Makes the cells of `scalars` that items give within the whole, in place."""
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
        """The field's value to stage of each item, as JSON text, and where the whole field is cleared.

        `values` are those of `scalars`, after the rules. The value is null where the item says nothing of the field,
        and None where none does.
        """


def decode_cells(cells: Cells, wanted: type, others: list[int]) -> Iterator[tuple[int, Any]]:
    """The items whose cell is JSON of the wanted type, with its value; those where it is something else into `others`.

    One at a time: the garbage collector visits again and again what is kept.
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
    """An error for each of the items, whose cell is not what the field can be."""
    wrong = pa.array(items, pa.int64())
    add_errors(wrong, "invalid_type", field.name, field.type_expectation, cells.raw.take(wrong))


class KeyColumns:
    """Collects decoded objects of fixed keys, one after another, and gives them as a column for each key."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._values: dict[str, dict[int, Any]] = {key: {} for key in keys}
        self._unknown: list[tuple[int, str, Any]] = []

    def add(self, place: int, pairs: Mapping[str, Any]) -> None:
        """Takes in the object at a place."""
        for key, value in pairs.items():
            name = key.strip()
            if name in self._values:
                self._values[name][place] = value
            else:
                self._unknown.append((place, name, value))

    def cells(self, count: int) -> dict[str, Cells]:
        """Cells of each key that any object has, as long as `count`; an empty text or null clears."""
        return {key: _scattered(values, count) for key, values in self._values.items() if values}

    def unknown(self) -> tuple[pa.Int64Array, pa.StringArray, pa.StringArray]:
        """The other keys that objects have: places, names and values' texts."""
        places, names, values = zip(*self._unknown, strict=True) if self._unknown else ((), (), ())
        return pa.array(places, pa.int64()), pa.array(names, pa.string()), value_column(values)[0]


def _scattered(values: dict[int, Any], count: int) -> Cells:
    column: list[Any] = [ABSENT] * count
    for place, value in values.items():
        column[place] = value
    texts, kinds = value_column(column)
    return column_cells(texts, kinds, blank_clears=True)


def merge_cells(cells: dict[str, Cells], name: str, more: Cells, add_errors: AddErrors) -> None:
    """Adds further cells under a name; an item that has a value both ways contradicts itself."""
    if name in cells:
        both = pc.indices_nonzero(pc.and_(pc.is_valid(cells[name].values), pc.is_valid(more.values)))
        add_errors(both, "conflict", name, TWICE, None)
        more = either(more, cells[name])
    cells[name] = more
