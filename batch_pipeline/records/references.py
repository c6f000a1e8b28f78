"""Fields that refer to records of another resource: the three kinds, and how their cells are read.

`links` describes what all of them have in common. `reference_lists` turns cells into lists of texts. In the database,
`loading.references` finds the records that the texts name, and `loading.memberships` writes the links.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.cells import AddErrors, Cells, constant
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.links import ADD, MARK, REMOVE, SET, Elsewhere, ReferenceField
from batch_pipeline.records.nested import TWICE
from batch_pipeline.records.reference_lists import read_references
from batch_pipeline.records.scalars import of_kinds

ADDED_AND_REMOVED = "is both to be added and to be removed"


@dataclass(frozen=True)
class References(ReferenceField):
    """What the kinds have in common: how their cells are read."""

    def expand(self, cells: dict[str, Cells], count: int, add_errors: AddErrors) -> None:
        """Refuses items that give the field both as one cell and by dotted headers; makes no cells."""
        if self.name in cells:
            both = pc.and_(pc.is_valid(cells[self.name].values), self._is_dotted(cells, count))
            add_errors(pc.indices_nonzero(both), "conflict", self.name, TWICE, None)

    def assemble(
        self,
        cells: Mapping[str, Cells],
        values: Mapping[str, pa.Array],
        count: int,
        context: RuleContext,
        add_errors: AddErrors,
    ) -> tuple[pa.StringArray | None, pa.BooleanArray]:
        """Each item's references as staged; a cleared field removes all links of the record first."""
        del values, context
        single = Members(self.name, self.target, self.link)
        columns = {
            name: of_kinds(single, name, column, add_errors) if self.key_of(name) is not None else column
            for name, column in cells.items()
        }
        if self.name in columns:  # the batch's default does not apply to items that use dotted headers
            columns[self.name] = columns[self.name].take_valid(pc.invert(self._is_dotted(cells, count)))
        return read_references(self, columns, count, add_errors)

    def _is_dotted(self, cells: Mapping[str, Cells], count: int) -> pa.BooleanArray:
        dotted = [pc.is_valid(column.values) for name, column in cells.items() if self.key_of(name) is not None]
        return reduce(pc.or_, dotted, constant(False, count))


@dataclass(frozen=True)
class Belongs(References):
    """The records of another resource that this one belongs to: `{add, remove, set}`; a plain list adds."""

    kinds: ClassVar[frozenset[CellKind]] = frozenset({CellKind.TEXT, CellKind.ARRAY, CellKind.OBJECT})
    type_expectation: ClassVar[str] = "must be a list of texts, or an object of such lists: add, remove, set"
    has_dotted_headers: ClassVar[bool] = True
    plain: ClassVar[str] = ADD
    operations: ClassVar[tuple[str, ...]] = (ADD, REMOVE, SET)


@dataclass(frozen=True)
class Members(References):
    """The records of another resource that belong to this one: exactly these.

    Attributes:
        elsewhere: when the members are things that this system does not keep.
    """

    elsewhere: Elsewhere | None = None

    @property
    def left_behind(self) -> str:
        """Error text for a change that would leave members of the wrong kind."""
        return f"can't change while there are members of the other kind: give {self.name} as well"


@dataclass(frozen=True)
class MarkedMembers(References):
    """The marked ones among the members that the field `of` gives: exactly these."""

    plain: ClassVar[str] = MARK
    of: str = ""

    @property
    def not_a_member(self) -> str:
        """Error text for a reference to a record that is not a member after the batch."""
        return f"is not among the {self.of} that the record gets"
