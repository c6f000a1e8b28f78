"""How records of two resources are linked: the link table, the records that a text can name, and the fields for it."""

from dataclasses import dataclass
from typing import ClassVar

from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records import rules
from batch_pipeline.records.nested import Nested
from batch_pipeline.records.rules import Rule
from batch_pipeline.values.identifier import REFERENCE_ID_MAX_CHARACTERS

QUALIFIER = ":::"  # separates the two values of a text that names a record by both

# Operations on a record's links: add these, remove these, have exactly these, mark exactly these.
ADD, REMOVE, SET, MARK = "add", "remove", "set", "mark"


@dataclass(frozen=True)
class Target:
    """The records that a reference can name: by id, by external id, or by the column `by`.

    Attributes:
        resource: name of their resource.
        table: its table, in schema public.
        id_prefix: prefix of their ids.
        by: column whose value names a record, if no record has the text as its external id.
        fold_case: `by` is compared case-insensitively.
        qualified_by: a second column: `qualified_by:::by` names a record by the values of both.
        among: column and value: only records with this value can be named; null counts as the value.
    """

    resource: str
    table: str
    id_prefix: str
    by: str
    fold_case: bool = False
    qualified_by: str | None = None
    among: tuple[str, str] | None = None

    @property
    def ways(self) -> str:
        """The ways to name a record, for messages."""
        ways = ["id", "external id", self.by]
        if self.qualified_by is not None:
            ways.append(f"{self.qualified_by}{QUALIFIER}{self.by}")
        return f"{', '.join(ways[:-1])} or {ways[-1]}"

    @property
    def not_found(self) -> str:
        """Error text for a text that names no record."""
        return f"names no {self.resource} of this organization: give its {self.ways}"

    @property
    def ambiguous(self) -> str:
        """Error text for a text that names several records."""
        return f"names several {self.table}: give the id or external id of one"


@dataclass(frozen=True)
class Link:
    """The table that links two resources, and its columns as seen from one side.

    Attributes:
        table: in schema public; its key is `organization_id` and the two columns.
        own: the column with the id of the record that has the field.
        other: the column with the id of the named record.
        mark: the boolean column of marked links, false by default.
    """

    table: str
    own: str
    other: str
    mark: str

    @property
    def changes_table(self) -> str:
        """The table of the links' changes, in schema public."""
        return f"{self.table.removesuffix('s')}_changes"


@dataclass(frozen=True)
class Elsewhere:
    """If the record's `field` has the value, references are ids of things that this system does not keep.

    Attributes:
        prefix: prefix of these ids.
    """

    field: str
    value: str
    prefix: str

    @property
    def malformed(self) -> str:
        """Error text for a text that has not the form of these ids."""
        return (
            f"is not an id of this kind: where {self.field} is {self.value}, give {self.prefix} and 1 to "
            f"{REFERENCE_ID_MAX_CHARACTERS} letters, digits, - or _"
        )


@dataclass(frozen=True)
class ReferenceField(Nested):
    """A list of references to records of another resource, stored in a link table.

    Staged as a JSON object of lists of texts by operation: `add`, `remove`, `set` (the record has these links and no
    others) and `mark` (of its links, these and no others are marked). A cleared field removes all links first.

    Attributes:
        target: the records that its texts can name.
        link: the table that stores the links.
        plain: the operation of a list that names none.
        operations: what an object of lists may name, and a dotted header.
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

    def element_rules(self) -> tuple[Rule, ...]:
        """Rules on each reference."""
        return (rules.no_control_characters(),)
