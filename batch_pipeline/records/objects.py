"""Objects with fixed keys, each a scalar field with its own rules (`sender`, `alternate_emails`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.cells import AddErrors, Cells, constant
from batch_pipeline.records.fields import Field, RuleContext
from batch_pipeline.records.json_text import json_objects, json_values
from batch_pipeline.records.nested import KeyColumns, Nested, add_wrong_type, decode_cells, merge_cells
from batch_pipeline.records.scalars import of_kinds


@dataclass(frozen=True)
class KeyedObject(Nested):
    """An object with fixed keys, merged key by key; a null value removes a key.

    Flat files give its keys as dotted headers (`sender.email`).

    Attributes:
        keys: the fields of the object, named by their keys.
    """

    keys: tuple[Field, ...] = ()

    merges_by_key: ClassVar[bool] = True
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.OBJECT})
    type_expectation: ClassVar[str] = "must be an object"

    @property
    def initial(self) -> str:
        """No keys."""
        return "{}"

    def key_of(self, header: str) -> str | None:
        """The key that a dotted header names; None if it names none."""
        return next((key.name for key in self.keys if header == f"{self.name}.{key.name}"), None)

    def takes_default(self, header: str) -> bool:
        """One key of it."""
        return self.key_of(header) is not None

    def scalars(self) -> dict[str, Field]:
        """The keys' fields."""
        return {f"{self.name}.{key.name}": key for key in self.keys}

    def expand(self, cells: dict[str, Cells], count: int, add_errors: AddErrors) -> None:
        """Adds the keys of items that give the field as one JSON object."""
        whole = cells.get(self.name)
        if whole is None:
            return
        columns = KeyColumns(key.name for key in self.keys)
        others: list[int] = []
        for item, pairs in decode_cells(whole, dict, others):
            columns.add(item, pairs)
        add_wrong_type(self, whole, others, add_errors)
        fields = self.scalars()
        for key, column in columns.cells(count).items():
            name = f"{self.name}.{key}"
            merge_cells(cells, name, of_kinds(fields[name], name, column, add_errors), add_errors)
        items, names, shown = columns.unknown()
        add_errors(
            items,
            "unknown_field",
            pc.binary_join_element_wise(self.name, names, "."),
            f"is not a field of {self.name}: it has {', '.join(key.name for key in self.keys)}",
            shown,
        )

    def assemble(
        self,
        cells: Mapping[str, Cells],
        values: Mapping[str, pa.Array],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> tuple[pa.StringArray | None, pa.BooleanArray]:
        """The field's patch for each item: a null value removes a key."""
        del context, add_errors
        cleared = cells[self.name].cleared if self.name in cells else constant(False, count)
        members = {
            key.name: pc.if_else(cells[name].cleared, "null", json_values(values[name], are_numbers=key.is_number))
            for name, key in self.scalars().items()
            if name in values
        }
        return (json_objects(members) if members else None), cleared
