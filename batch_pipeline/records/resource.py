"""The description of a resource: its fields, keys and table. Each resource is a module that makes one `Resource`.

Code outside `records/` works from this description and knows no resource by name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from batch_pipeline.records.cells import Cells
from batch_pipeline.records.fields import Field, RecordId, Text
from batch_pipeline.records.keyed import KeyedText
from batch_pipeline.records.nested import Nested
from batch_pipeline.records.record_rules import ArrowRule, RecordRule
from batch_pipeline.records.registry import RESOURCES


@dataclass(frozen=True)
class NaturalKey:
    """Columns that together identify the record of an item without `id` and `external_id`.

    Attributes:
        columns: all are compared; null equals null, but the first column must have a value.
        when: the key is for items that give this field; None: for all other items.
        fold_case: the comparison is case-insensitive.
        only_records_without: only records whose value in this column is null are matched.
    """

    columns: tuple[str, ...]
    when: str | None = None
    fold_case: bool = False
    only_records_without: str | None = None


@dataclass(frozen=True)
class DerivationError:
    """An error found while deriving cells. `items` are positions in the chunk."""

    items: pa.Int64Array
    code: str
    field: str
    expectation: str


# The masks `cleared` and `invalid` of staged items are stored as bigint. Bits 0 to 61 are for the fields, by position;
# bit 62 is for errors that concern no single field; bit 63 is the sign.
WHOLE_ITEM_BIT = 62

Derivation = Callable[[dict[str, Cells]], Iterable[DerivationError]]


@dataclass(frozen=True, eq=False)  # each is equal only to itself
class Resource:
    """One resource.

    Attributes:
        name: its name in the registry.
        id_prefix: prefix of its records' ids.
        own_fields: its fields, in the order of the specification, without those that all resources have.
        natural_keys: in the order in which they decide; the last one has no `when`.
        file_headers: further headers that an upload may use -> the field that gets their values.
        derive: replaces the cells of these headers by cells of fields, in the given dict.
        record_rules: rules between fields that the database checks.
        arrow_rules: rules between fields that a Python function checks.
        synonyms: header that an upload may have -> other names that people use for it, in lower case. They are only
            suggested, never applied.
    """

    name: str
    id_prefix: str
    own_fields: tuple[Field, ...]
    natural_keys: tuple[NaturalKey, ...]
    file_headers: Mapping[str, str] = field(default_factory=dict)
    derive: Derivation | None = None
    record_rules: tuple[RecordRule, ...] = ()
    arrow_rules: tuple[ArrowRule, ...] = ()
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.fields) > WHOLE_ITEM_BIT:
            raise ValueError(
                f"the resource {self.name} has {len(self.fields)} fields, and the masks of staged items have bits for "
                f"{WHOLE_ITEM_BIT}"
            )

    @property
    def table(self) -> str:
        """Its table, in schema public."""
        return RESOURCES[self.name].table

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """All fields that an item may carry, at most 62; a field's position is its bit in staged masks."""
        return (
            RecordId("id", prefix=self.id_prefix),
            Text("external_id", max_length=255),
            *self.own_fields,
            KeyedText("metadata"),
        )

    @property
    def changes_table(self) -> str:
        """The table of its records' changes, in schema public."""
        return f"{self.name}_changes"

    @cached_property
    def change_bits(self) -> Mapping[str, int]:
        """The bit of each field in the change log's masks. It is stored, so a new field comes last in `own_fields`."""
        names = ("id", "external_id", "metadata", *(own.name for own in self.own_fields))
        return {name: bit for bit, name in enumerate(names)}

    def field(self, name: str) -> Field:
        """The named field. Raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Field]:
        return {field.name: field for field in self.fields}

    def knows(self, header: str) -> bool:
        """Whether an upload may have a column of this name."""
        return header in self.file_headers or any(
            header == field.name or field.key_of(header) is not None for field in self.fields
        )

    def takes_default(self, name: str) -> bool:
        """Whether a batch may give a default value for this name: a scalar field, or a key of an object."""
        return any(field.takes_default(name) for field in self.fields)

    def header_help(self) -> str:
        """The known headers, for messages."""
        names = [f"{f.name}.…" if isinstance(f, Nested) and f.has_dotted_headers else f.name for f in self.fields]
        return ", ".join((*names, *self.file_headers))
