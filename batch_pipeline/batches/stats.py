"""The statistics of a batch: what became of its items, or of the records that an undo takes back."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Stats:
    """Counts of items by outcome (`overwritten` counts records).

    An undo counts records: each once for each outcome that the record or one of its fields has.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    overwritten: int = 0
    rejected: int = 0
    duplicates: int = 0
    reversed: int = 0  #: undo: fields or members are as before the undone batch
    kept: int = 0  #: undo: something stays, because somebody else changed it since
    restored: int = 0  #: undo: deleted records that are back
    conflict: int = 0  #: undo: another record has a key by now, or the database refused the change
    gone: int = 0  #: undo: the record does not exist any more

    @property
    def items_read(self) -> int:
        """The number of the upload's items in these counts; in a completed batch, each item counts exactly once."""
        return self.created + self.updated + self.unchanged + self.deleted + self.rejected + self.duplicates

    def to_json(self) -> dict[str, int]:
        """The counts by name."""
        return dict(vars(self))  # `asdict` copies deeply, which takes ten times as long

    @classmethod
    def from_json(cls, data: dict[str, int]) -> Self:
        """The inverse of `to_json`."""
        return cls(**data)


UNDO_COUNTS = ("reversed", "deleted", "restored", "kept", "conflict", "gone")  #: those of `Stats` that an undo has
