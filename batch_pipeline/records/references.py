"""Fields that refer to records of another resource. They are no columns, but rows of a table that links the two.

What belongs here is what such a field is. How its cells become lists of texts is for `reference_lists`; which records
the texts mean is found in the database (`loading.references`), as is what becomes of the links (`loading.memberships`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records import rules
from batch_pipeline.records.cells import AddErrors, Cells, constant
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.links import ADD, MARK, REMOVE, SET, Elsewhere, Link, Target
from batch_pipeline.records.nested import TWICE, Nested
from batch_pipeline.records.reference_lists import read_references
from batch_pipeline.records.rules import Rule
from batch_pipeline.records.scalars import of_kinds

ADDED_AND_REMOVED = "is both to be added and to be removed"


@dataclass(frozen=True)
class References(Nested):
    """A list of references to records of another resource.

    Staged as an object of lists of texts by operation: `add`, `remove`, `set` (the record has these links and no
    others) and `mark` (of its links, these and no others are marked). A cleared field takes all away before that.
    """

    target: Target
    link: Link

    is_column: ClassVar[bool] = False
    has_dotted_headers: ClassVar[bool] = False
    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT, CellKind.ARRAY})
    type_expectation: ClassVar[str] = "must be a list of texts"
    plain: ClassVar[str] = SET
    operations: ClassVar[tuple[str, ...]] = ()

    def key_of(self, header: str) -> str | None:
        """The operation that a dotted header names."""
        field, _, operation = header.partition(".")
        return operation if field == self.name and operation in self.operations else None

    def spread(self, cells: dict[str, Cells], count: int, add_errors: AddErrors) -> None:
        """Refuses items that give the field both as one cell and by dotted headers; there are no cells to be made."""
        if self.name in cells:
            both = pc.and_(pc.is_valid(cells[self.name].values), self._is_dotted(cells, count))
            add_errors(pc.indices_nonzero(both), "conflict", self.name, TWICE, None)

    def _is_dotted(self, cells: Mapping[str, Cells], count: int) -> pa.BooleanArray:
        dotted = [pc.is_valid(column.values) for name, column in cells.items() if self.key_of(name) is not None]
        return reduce(pc.or_, dotted, constant(False, count))

    def gather(
        self,
        cells: Mapping[str, Cells],
        values: Mapping[str, pa.Array],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> tuple[pa.StringArray | None, pa.BooleanArray]:
        """The references of each item as staged; cleared is where all that the record has are taken away first."""
        del values, context
        single = Members(self.name, self.target, self.link)
        columns = {
            name: of_kinds(single, name, column, add_errors) if self.key_of(name) is not None else column
            for name, column in cells.items()
        }
        if self.name in columns:  # a default that the batch has is not for items that use dotted headers
            columns[self.name] = columns[self.name].take_valid(pc.invert(self._is_dotted(cells, count)))
        return read_references(self, columns, count, add_errors)

    def element_rules(self) -> tuple[Rule, ...]:
        """Rules on each reference."""
        return (rules.no_control_characters(),)


@dataclass(frozen=True)
class Belongs(References):
    """To which records of another resource this one belongs: `{add, remove, set}`; a plain list adds."""

    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT, CellKind.ARRAY, CellKind.OBJECT})
    type_expectation: ClassVar[str] = "must be a list of texts, or an object of such lists: add, remove, set"
    has_dotted_headers: ClassVar[bool] = True
    plain: ClassVar[str] = ADD
    operations: ClassVar[tuple[str, ...]] = (ADD, REMOVE, SET)


@dataclass(frozen=True)
class Members(References):
    """Which records of another resource belong to this one: exactly these."""

    elsewhere: Elsewhere | None = None

    @property
    def left_behind(self) -> str:
        """What is said of a change after which the members would be of the wrong kind."""
        return f"can't change while there are members of the other kind: give {self.name} as well"


@dataclass(frozen=True)
class MarkedMembers(References):
    """Which of the members, given by the field `of`, are marked: exactly these."""

    plain: ClassVar[str] = MARK
    of: str = ""

    @property
    def not_a_member(self) -> str:
        """What is said of a reference to a record that isn't, or wouldn't be, a member."""
        return f"is none of the {self.of} that there would be"
