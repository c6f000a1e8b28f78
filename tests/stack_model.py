"""What an undo does, in memory: written from the specification, never from the product's code.

Each unit (a field of a record, or a key of an object) has a version. A write makes a new version; an undo goes back to
the version before the undone write, and the undo of that undo to the version after it. A write can be undone if it was
not undone before and its unit has the version that the write made. A record as a whole is a unit too.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Unit = tuple[str, str]  # a record's id, and a field with its key, or WHOLE

WHOLE = ""
OBJECTS = ("metadata", "alternate_emails", "alternate_phones", "alternate_addresses")
NOT_COMPARED = ("organization_id", "id", "created_at", "updated_at", "batch_id")


@dataclass
class Move:
    """One writer's change of one unit.

    Attributes:
        undoes: the move that it takes back.
        versions: of a whole record, the versions of its units after the move.
        row: of a deletion, the record as it was.
    """

    number: int
    writer: str | None
    unit: Unit
    kind: str  # "create", "update", "delete", "restore"
    version_before: int
    version: int
    before: Any = None
    undoes: "Move | None" = None
    undone_by: "list[Move]" = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    row: Row | None = None

    @property
    def is_in_effect(self) -> bool:
        """Whether no undo that is in effect takes it back."""
        return not any(move.is_in_effect for move in self.undone_by)


@dataclass
class UndoOutcome:
    """What the undo is expected to do: the records after it, and each line of its result."""

    records: dict[str, Row]
    lines: set[tuple[str, str | None, str, str | None]] = field(default_factory=set)  # id, field, outcome, by

    def counts(self) -> dict[str, int]:
        """The statistics that are not zero: each record once for each of its outcomes."""
        return dict(Counter(outcome for _, outcome in {(line[0], line[2]) for line in self.lines}))


class StackModel:
    """The history of one organization's contacts."""

    def __init__(self) -> None:
        self.moves: list[Move] = []
        self.versions: dict[Unit, int] = defaultdict(int)
        self.last_writer: dict[str, str | None] = {}
        self.writer_before: dict[str, str | None] = {}

    # ---- writes --------------------------------------------------------------------------------------------------

    def observe(self, writer: str | None, before: Mapping[str, Row], after: Mapping[str, Row]) -> None:
        """Records what a batch, or somebody else (None), has written."""
        for record_id in sorted({*before, *after}):
            old, new = before.get(record_id), after.get(record_id)
            if old == new:
                continue
            if old is None:
                self._move(writer, (record_id, WHOLE), "create")
            elif new is None:
                self._move(writer, (record_id, WHOLE), "delete", row=old)
            else:
                for name, value in differences(old, new).items():
                    self._move(writer, (record_id, name), "update", before=value)

    def _move(self, writer: str | None, unit: Unit, kind: str, undoes: Move | None = None, **values: Any) -> Move:
        number = len(self.moves) + 1
        move = Move(
            number,
            writer,
            unit,
            kind,
            version_before=self.versions[unit],
            version=number if undoes is None else undoes.version_before,
            undoes=undoes,
            **values,
        )
        self.moves.append(move)
        self.versions[unit] = move.version
        move.versions = self._versions_of(unit[0])
        if undoes is not None:
            undoes.undone_by.append(move)
        self.last_writer[unit[0]] = writer
        return move

    def _versions_of(self, record_id: str) -> dict[str, int]:
        return {name: version for (owner, name), version in self.versions.items() if owner == record_id and version}

    # ---- undo ----------------------------------------------------------------------------------------------------

    def undo(self, batch: str, undo: str, records: Mapping[str, Row]) -> UndoOutcome:
        """What the undo does to these records; remembers it as written."""
        result = UndoOutcome({record_id: dict(row) for record_id, row in records.items()})
        self.writer_before = dict(self.last_writer)  # an undo decides by the records as it finds them
        for move in [move for move in self.moves if move.writer == batch]:
            getattr(self, f"_undo_{move.kind}")(move, undo, records, result)
        return result

    def _undo_update(self, move: Move, undo: str, records: Mapping[str, Row], result: UndoOutcome) -> None:
        record_id, name = move.unit
        if record_id not in records:
            result.lines.add((record_id, name, "gone", self._newest_since(move)))
        elif not self._is_on_top(move):
            result.lines.add((record_id, name, "kept", self._newest_since(move)))
        else:
            holder = self._holder(move.before, record_id, records) if name == "external_id" else None
            if holder is not None:
                result.lines.add((record_id, name, "conflict", holder))
                return
            row = result.records[record_id]
            self._move(undo, move.unit, "update", undoes=move, before=value_of(row, name))
            set_value(row, name, move.before)
            result.lines.add((record_id, name, "reversed", None))

    def _undo_create(self, move: Move, undo: str, records: Mapping[str, Row], result: UndoOutcome) -> None:
        record_id = move.unit[0]
        if record_id not in records:
            result.lines.add((record_id, None, "gone", self._newest_since(move)))
        elif not self._is_on_top(move):
            result.lines.add((record_id, None, "kept", self._newest_since(move)))
        else:
            self._move(undo, move.unit, "delete", undoes=move, row=dict(records[record_id]))
            del result.records[record_id]
            result.lines.add((record_id, None, "deleted", None))

    _undo_restore = _undo_create

    def _undo_delete(self, move: Move, undo: str, records: Mapping[str, Row], result: UndoOutcome) -> None:
        record_id = move.unit[0]
        assert move.row is not None
        if record_id in records:
            result.lines.add((record_id, None, "kept", self._newest_since(move)))
        elif not self._is_on_top(move):
            result.lines.add((record_id, None, "gone", self._newest_since(move)))
        elif (holder := self._key_holder(move, undo, records)) is not None:
            result.lines.add((record_id, None, "conflict", holder))
        else:
            self._move(undo, move.unit, "restore", undoes=move)
            result.records[record_id] = dict(move.row)
            result.lines.add((record_id, None, "restored", None))

    def _is_on_top(self, move: Move) -> bool:
        if not move.is_in_effect or self.versions[move.unit] != move.version:
            return False
        if move.kind not in ("create", "restore"):
            return True
        return self._versions_of(move.unit[0]) == move.versions

    def _newest_since(self, move: Move) -> str | None:
        """The writer of the newest move in effect since then, that takes back nothing which came later still."""
        record_id, name = move.unit
        whole = name == WHOLE and move.kind != "delete"
        found = [
            later
            for later in self.moves[move.number :]
            if later.unit[0] == record_id
            and (whole or later.unit[1] in (name, WHOLE))
            and later.is_in_effect
            and (later.undoes is None or later.undoes.number <= move.number)
        ]
        return found[-1].writer if found else None

    @staticmethod
    def _holder(external_id: Any, record_id: str, records: Mapping[str, Row]) -> str | None:
        if external_id is None:
            return None
        return next(
            (other for other, row in records.items() if other != record_id and row["external_id"] == external_id), None
        )

    def _key_holder(self, move: Move, undo: str, records: Mapping[str, Row]) -> str | None:
        """The record that has a key of the deleted one: its external id, or its natural key if written since."""
        record_id, row = move.unit[0], move.row
        assert row is not None
        holder = self._holder(row["external_id"], record_id, records)
        if holder is not None:
            return holder
        changed = {later.unit[0] for later in self.moves[move.number :]}
        found = [
            other
            for other, values in records.items()
            if other in changed
            and self.writer_before.get(other) not in (move.writer, undo)
            and natural_key(values) == natural_key(row)
        ]
        return min(found, default=None)


def natural_key(row: Row) -> tuple[Any, ...]:
    """A contact's email, case-folded, or else its name and phone."""
    return (row["email"].lower(),) if row["email"] else (row["name"] or "", row["phone"] or "")


def differences(old: Row, new: Row) -> Row:
    """The old value of each unit that differs."""
    found = {}
    for name in old:
        if name in NOT_COMPARED:
            continue
        if name in OBJECTS:
            for key in {*old[name], *new[name]}:
                if old[name].get(key) != new[name].get(key):
                    found[f"{name}.{key}"] = old[name].get(key)
        elif old[name] != new[name]:
            found[name] = old[name]
    return found


def value_of(row: Row, unit: str) -> Any:
    """The value of a field, or of a key of one."""
    name, _, key = unit.partition(".")
    return row[name].get(key) if key else row[name]


def set_value(row: Row, unit: str, value: Any) -> None:
    """Sets it; None removes a key."""
    name, _, key = unit.partition(".")
    if not key:
        row[name] = value
        return
    row[name] = {**row[name], key: value}
    if value is None:
        del row[name][key]
