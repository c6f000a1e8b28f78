"""A change as people see it: of a record, field by field."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class ChangeKind(StrEnum):
    """What a change did to its record."""

    created = "created"
    updated = "updated"  # fields, members or groups
    deleted = "deleted"
    restored = "restored"  # an undo brought the deleted record back


@dataclass(frozen=True)
class FieldChange:
    """The change of one field.

    Attributes:
        field: its name; of an object, `field.key`; None: the whole record.
        before: value as in JSON; None if it had none. Of members and groups: the ids that left.
        after: the value after it. Of members and groups: the ids that joined.
    """

    field: str | None
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"field": self.field, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Change:
    """What one item of a batch, or one statement of another tool, changed in one record.

    Attributes:
        number: of the row in the change log; None for a creation, which has none.
        batch_id: the batch; None: outside of batches.
        row: of the upload; None: outside of batches, or deleted by an overwrite's cleanup.
    """

    record_id: str
    kind: ChangeKind
    at: datetime
    batch_id: str | None
    row: int | None
    fields: tuple[FieldChange, ...]
    number: int | None = None

    @property
    def epoch_seconds(self) -> int:
        """The time of the change."""
        return int(self.at.timestamp())
