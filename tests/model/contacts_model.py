"""What batches do to one organization's contacts, in memory, one item at a time: written from the specification.

`batches.md` is the source of every rule here, never the product's code; what belongs to reading an item is in
`model_items`. Comments that begin with "Reading:" say how the specification was read where it leaves room.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from model_items import (
    CLEARED,
    EMPTY,
    UNREADABLE,
    Action,
    Item,
    Reader,
    Record,
    Target,
    UnreadableRow,
    Upload,
    Whole,
    all_keys,
    comparable,
    first_key,
    has_key,
    is_record_id,
    record_keys,
)


@dataclass
class Outcome:
    """What a batch is expected to do.

    Attributes:
        reason: the code of a failed batch's reason.
        outcomes: of each row, ascending.
        ids: the record that each created, updated, unchanged or deleted item means; None for a new one.
        errors: the codes of each rejected row's errors.
        overwritten: ids of the records removed by cleanup.
        writes: row -> the record as it is afterwards, where the item creates or changes one.
    """

    status: Literal["completed", "failed"] = "completed"
    reason: str | None = None
    outcomes: dict[int, str] = field(default_factory=dict)
    ids: dict[int, str | None] = field(default_factory=dict)
    errors: dict[int, list[str]] = field(default_factory=dict)
    has_errors_file: bool = False
    cleanup: Literal["pending", "completed", "skipped"] = "skipped"
    unidentified: bool = False
    overwritten: set[str] = field(default_factory=set)
    writes: dict[int, Record] = field(default_factory=dict)

    def stats(self) -> dict[str, int]:
        """The batch's statistics; a batch that failed before it wrote has zeros."""
        names = ("created", "updated", "unchanged", "deleted", "rejected")
        of_undo = ("reversed", "kept", "restored", "conflict", "gone")
        if self.status == "failed":
            return dict.fromkeys((*names, "duplicates", "overwritten", *of_undo), 0)
        counts = Counter(self.outcomes.values())
        return {
            **dict.fromkeys(of_undo, 0),
            **{name: counts[name] for name in names},
            "duplicates": counts["duplicate"],
            "overwritten": len(self.overwritten),
        }


class ContactsModel:
    """The contacts of one organization, by id."""

    def __init__(self, records: Mapping[str, Record], *, phones: Mapping[str, str], emails: Mapping[str, str]) -> None:
        self.records = {record_id: {**EMPTY, **record} for record_id, record in records.items()}
        self._reader = Reader(phones=phones, emails=emails)

    # ---- a batch ---------------------------------------------------------------------------------------------

    def expect(self, upload: Upload) -> Outcome:
        """What the batch will do; the records stay as they are until `apply`."""
        result = Outcome()
        items = self._parsed(upload, result)
        for item in items:
            self._identify(item, upload.action)
            if upload.action != "delete":
                self._check_as_stored(item)
        accepted = self._settle([item for item in items if not item.errors], upload, result)
        rejected = [item for item in items if item.errors]
        for item in rejected:
            result.outcomes[item.row] = "rejected"
            result.errors[item.row] = sorted(item.errors)
        result.has_errors_file = bool(result.errors)
        refusal = self._refusal(upload, accepted, rejected, result)
        if refusal is not None:
            failed = Outcome("failed", refusal, cleanup="pending")
            if refusal in ("no_valid_items", "reject_limit_exceeded"):
                failed.errors, failed.has_errors_file = result.errors, True
            return failed
        for item in accepted:
            self._write(item, upload.action, result)
        if upload.action == "overwrite" and not result.unidentified:
            result.cleanup = "completed"
        return result

    def apply(self, expected: Outcome, new_ids: Mapping[int, str]) -> None:
        """Makes the records what they are after the batch; `new_ids` has the ids of the rows that created one."""
        for row, outcome in expected.outcomes.items():
            if outcome == "deleted":
                del self.records[str(expected.ids[row])]
            elif outcome in ("created", "updated"):
                self.records[expected.ids[row] or new_ids[row]] = expected.writes[row]
        for record_id in expected.overwritten:
            del self.records[record_id]

    def _refusal(
        self, upload: Upload, accepted: Sequence[Item], rejected: Sequence[Item], result: Outcome
    ) -> str | None:
        """The reason of a batch that writes nothing; None for one that goes on. Lists what cleanup deletes."""
        if upload.items and not accepted:
            return "no_valid_items"
        if not upload.items and upload.action == "overwrite" and not upload.allow_empty:
            return "no_items"
        if self._rejects_too_many(upload, result):
            return "reject_limit_exceeded"
        to_delete = 0
        if upload.action == "delete":
            to_delete = len(accepted)
        elif upload.action == "overwrite":
            unreadable = any(isinstance(item, UnreadableRow) for item in upload.items)
            result.unidentified = unreadable or not all(all_keys(item) for item in rejected)
            if not result.unidentified:
                result.overwritten = self._not_found(accepted, rejected)
            to_delete = len(result.overwritten)
        return "delete_limit_exceeded" if self._is_over(upload, to_delete) else None

    def _rejects_too_many(self, upload: Upload, result: Outcome) -> bool:
        if upload.reject_limit == "none" or not upload.items:
            return False
        rejected = len(result.errors)
        if upload.reject_limit.endswith("%"):
            return 100 * rejected / len(upload.items) > float(upload.reject_limit.removesuffix("%"))
        return rejected > int(upload.reject_limit)

    def _is_over(self, upload: Upload, to_delete: int) -> bool:
        limit = upload.delete_limit
        if upload.action == "merge" or limit == "none":
            return False
        percent = 100 * to_delete / len(self.records) if self.records else 0
        if limit is None:
            return upload.action == "overwrite" and to_delete > 500 and percent > 50
        if limit.endswith("%"):
            return percent > float(limit.removesuffix("%"))
        return to_delete > int(limit)

    # ---- parsing ---------------------------------------------------------------------------------------------

    def _parsed(self, upload: Upload, result: Outcome) -> list[Item]:
        """The items that are left once unreadable and equal ones are gone, with the errors of their own values."""
        rows = list(enumerate(upload.items, start=1))
        kept: dict[str, int] = {}
        for row, item in reversed(rows) if upload.duplicate_handling == "use_last" else rows:
            if isinstance(item, UnreadableRow):
                result.outcomes[row], result.errors[row] = "rejected", ["unreadable_row"]
            elif kept.setdefault(comparable(item), row) != row:
                result.outcomes[row] = "duplicate"
        return [
            self._reader.read(row, item, upload)
            for row, item in rows
            if row not in result.outcomes and not isinstance(item, UnreadableRow)
        ]

    # ---- identity --------------------------------------------------------------------------------------------

    def _identify(self, item: Item, action: Action) -> None:
        """Looks up the first key that the item carries."""
        record_id = item.values.get("id")
        if record_id is not None:
            if record_id is not UNREADABLE and not is_record_id(record_id):
                item.errors.append("id_malformed")
                item.values["id"] = UNREADABLE
            elif record_id is not UNREADABLE and record_id not in self.records:
                item.errors.append("id_not_found")
            elif record_id is not UNREADABLE:
                item.target = ("record", record_id)
            return
        if action == "delete":
            item.errors.append("required")
            return
        key = first_key(item)
        if UNREADABLE in key:
            return  # nobody knows which record is meant
        found = [record_id for record_id, record in self.records.items() if has_key(record, key)]
        if len(found) > 1:
            item.errors.append("ambiguous_match")
        elif found:
            item.target = ("record", found[0])
        else:
            item.target = ("new", *map(str, key))

    def _check_as_stored(self, item: Item) -> None:
        """The rules that hold for the record as it would be stored."""
        name = item.values.get("name")
        is_new = item.target is not None and item.target[0] == "new"
        if name is CLEARED or (name is None and is_new):
            item.errors.append("required")
        external_id = item.key("external_id")
        # Reading: the record of an id that is not found is not the one that has the external id.
        if external_id is not None and (item.target is not None or "id_not_found" in item.errors):
            holders = {("record", key) for key, record in self.records.items() if record["external_id"] == external_id}
            if holders - {item.target}:
                item.errors.append("conflict")

    def _settle(self, valid: Sequence[Item], upload: Upload, result: Outcome) -> list[Item]:
        """Settles contradictions, and returns the items that are left."""
        groups: dict[Target, list[Item]] = defaultdict(list)
        for item in valid:
            assert item.target is not None
            groups[item.target].append(item)
        kept: list[Item] = []
        for group in groups.values():
            if len(group) > 1 and upload.duplicate_handling == "ignore_all" and upload.action != "delete":
                for item in group:
                    item.errors.append("duplicate_key")
                continue
            stays = group[-1] if upload.duplicate_handling == "use_last" else group[0]
            kept.append(stays)
            for item in group:
                if item is not stays:
                    result.outcomes[item.row] = "duplicate"
        # Reading: two items that would give one external id to two records are both in conflict, as neither is
        # before the other; only items that are left by now count, since no others give anything.
        takers = Counter(item.key("external_id") for item in kept) if upload.action != "delete" else Counter()
        for item in kept:
            if item.key("external_id") is not None and takers[item.key("external_id")] > 1:
                item.errors.append("conflict")
        return [item for item in sorted(kept, key=lambda item: item.row) if not item.errors]

    # ---- writing ---------------------------------------------------------------------------------------------

    def _write(self, item: Item, action: Action, result: Outcome) -> None:
        assert item.target is not None
        kind, record_id = item.target[0], item.target[1]
        if action == "delete":
            result.outcomes[item.row], result.ids[item.row] = "deleted", record_id
            return
        before = self.records[record_id] if kind == "record" else EMPTY
        after = {**before, "metadata": dict(before["metadata"])}
        for name, value in item.values.items():
            if name == "metadata":
                merged = value if isinstance(value, Whole) else {**after["metadata"], **value}
                after["metadata"] = {key: text for key, text in merged.items() if text is not None}
            elif name != "id":
                after[name] = EMPTY[name] if value is CLEARED else value
        result.ids[item.row] = record_id if kind == "record" else None
        result.outcomes[item.row] = "created" if kind == "new" else "unchanged" if after == before else "updated"
        if result.outcomes[item.row] != "unchanged":
            result.writes[item.row] = after

    def _not_found(self, accepted: Iterable[Item], rejected: Iterable[Item]) -> set[str]:
        """The records that no accepted item means and of which no rejected one carries any key."""
        meant = {item.target[1] for item in accepted if item.target is not None and item.target[0] == "record"}
        keys = [key for item in rejected for key in record_keys(item)]
        return {
            record_id
            for record_id, record in self.records.items()
            if record_id not in meant and not any(has_key({**record, "id": record_id}, key) for key in keys)
        }
