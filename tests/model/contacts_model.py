"""What batches do to one organization's contacts, in memory, one item at a time: written from the specification.

`batches.md` and `records.md` are the source of every rule here, never the product's code. Where they can be read in
more than one way, a comment that begins with "Reading:" says which way was taken. Of the row rules only those that the
uploads of these tests can break are here; tables of their own hold the others.
"""

import json
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["merge", "overwrite", "delete"]
Format = Literal["csv", "json"]
Record = dict[str, Any]
Target = tuple[str, ...]  # ("record", id), or ("new", kind of key, key …)

KEY_FIELDS = ("external_id", "email", "name", "phone")
TEXT_LIMITS = {"external_id": 255, "name": 255, "notes": 5_000}
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
EMPTY: Record = {
    **dict.fromkeys(("external_id", "name", "email", "phone", "is_primary", "notes")),
    "metadata": {},
}


class _Cleared:
    """The item asks for the field to be empty."""


class Whole(dict[str, str | None]):
    """Metadata that take the place of all that there are, as those of an item that clears them."""


class _Unreadable:
    """The item gives the field a value that breaks its rules."""


CLEARED, UNREADABLE = _Cleared(), _Unreadable()


@dataclass(frozen=True)
class UnreadableRow:
    """A row that no item can be read from, as uploaded."""

    text: str


@dataclass(frozen=True)
class Upload:
    """A batch to be.

    Attributes:
        columns: of a CSV file; every item has all of them as texts. Items of JSON carry what they carry.
        phones: every number in the upload and how it is stored, or None for one that is no valid number.
        emails: the same for addresses.
    """

    action: Action
    format: Format
    items: Sequence[Mapping[str, Any] | UnreadableRow]
    columns: Sequence[str] = ()
    duplicate_handling: Literal["ignore_all", "use_first", "use_last"] = "ignore_all"
    blank_cells: Literal["keep", "clear"] | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    delete_limit: str | None = None
    allow_empty: bool = False

    @property
    def blank_clears(self) -> bool:
        if self.format == "json":
            return True  # null and "" clear; blank_cells is about cells
        return (self.blank_cells or ("clear" if self.action == "overwrite" else "keep")) == "clear"


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
        if self.status == "failed":
            return dict.fromkeys((*names, "duplicates", "overwritten"), 0)
        counts = Counter(self.outcomes.values())
        return {
            **{name: counts[name] for name in names},
            "duplicates": counts["duplicate"],
            "overwritten": len(self.overwritten),
        }


@dataclass
class Item:
    """An item as read: its values (stored form, CLEARED or UNREADABLE), the record it means, and what is wrong."""

    row: int
    values: dict[str, Any]
    errors: list[str]
    target: Target | None = None

    def key(self, name: str) -> Any:
        """The field's value, where it has one that can be read."""
        value = self.values.get(name)
        return None if value is CLEARED or value is UNREADABLE else value


def clean(text: str) -> str:
    """As every text is read."""
    return unicodedata.normalize("NFC", text).strip()


class ContactsModel:
    """The contacts of one organization, by id."""

    def __init__(self, records: Mapping[str, Record], *, phones: Mapping[str, str], emails: Mapping[str, str]) -> None:
        self.records = {record_id: {**EMPTY, **record} for record_id, record in records.items()}
        self._phones = phones
        self._emails = emails

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
            if refusal == "no_valid_items":
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
        doomed = 0
        if upload.action == "delete":
            doomed = len(accepted)
        elif upload.action == "overwrite":
            unreadable = any(isinstance(item, UnreadableRow) for item in upload.items)
            result.unidentified = unreadable or not all(_is_identified(item) for item in rejected)
            if not result.unidentified:
                result.overwritten = self._not_found(accepted, rejected)
            doomed = len(result.overwritten)
        return "delete_limit_exceeded" if self._is_over(upload, doomed) else None

    def _is_over(self, upload: Upload, doomed: int) -> bool:
        limit = upload.delete_limit
        if upload.action == "merge" or limit == "none":
            return False
        percent = 100 * doomed / len(self.records) if self.records else 0
        if limit is None:
            return upload.action == "overwrite" and doomed > 500 and percent > 50
        if limit.endswith("%"):
            return percent > float(limit.removesuffix("%"))
        return doomed > int(limit)

    # ---- parsing ---------------------------------------------------------------------------------------------

    def _parsed(self, upload: Upload, result: Outcome) -> list[Item]:
        """The items that are left once unreadable and equal ones are gone, with the errors of their own values."""
        rows = list(enumerate(upload.items, start=1))
        kept: dict[str, int] = {}
        for row, item in reversed(rows) if upload.duplicate_handling == "use_last" else rows:
            if isinstance(item, UnreadableRow):
                result.outcomes[row], result.errors[row] = "rejected", ["unreadable_row"]
            elif kept.setdefault(_comparable(item), row) != row:
                result.outcomes[row] = "duplicate"
        return [
            self._read(row, item, upload)
            for row, item in rows
            if row not in result.outcomes and not isinstance(item, UnreadableRow)
        ]

    def _read(self, row: int, uploaded: Mapping[str, Any], upload: Upload) -> Item:
        item = Item(row, {}, [])
        for name, value in uploaded.items():
            if upload.action == "delete" and name != "id" and name in (*EMPTY, "metadata.k"):
                continue  # only `id` counts, other known columns are ignored
            self._take(item, name, value, upload)
        if upload.action != "delete":
            for name, default in upload.properties.items():
                self._default(item, name, default, upload)
        return item

    def _take(self, item: Item, name: str, value: Any, upload: Upload) -> None:
        blank = value is None or (isinstance(value, str) and clean(value) == "")
        if name == "metadata":
            self._take_metadata(item, value)
        elif name.startswith("metadata."):
            if not blank or (upload.blank_clears and name not in upload.properties):
                item.values.setdefault("metadata", {})[name.removeprefix("metadata.")] = None if blank else clean(value)
        elif name != "id" and name not in EMPTY:
            item.errors.append("unknown_field")
        elif blank:
            # Reading: an id can't be cleared, a blank one is no id.
            if upload.blank_clears and name != "id":
                item.values[name] = CLEARED
        else:
            read = self._value(name, value, item.errors)
            item.values[name] = read

    def _take_metadata(self, item: Item, value: Any) -> None:
        if value is None or value == "":
            item.values["metadata"] = Whole()
        elif isinstance(value, dict):
            item.values["metadata"] = dict(value)
        else:
            item.errors.append("invalid_type")
            item.values["metadata"] = UNREADABLE

    def _value(self, name: str, value: Any, errors: list[str]) -> Any:
        code: str | None = None
        read: Any = clean(value) if isinstance(value, str) else value
        if name == "is_primary":
            # Reading: a text that is no boolean is of the wrong type.
            read = BOOLEANS.get(str(read).lower())
            code = "invalid_type" if read is None else None
        elif not isinstance(read, str):
            code = "invalid_type"
        elif any(unicodedata.category(character) == "Cc" and character not in "\t\n" for character in read):
            code = "invalid_format"
        elif name in ("email", "phone"):
            read = (self._emails if name == "email" else self._phones).get(read)
            code = "invalid_format" if read is None else None
        elif len(read) > TEXT_LIMITS.get(name, len(read)):
            code = "too_long"
        if code is None:
            return read
        errors.append(code)
        return UNREADABLE

    def _default(self, item: Item, name: str, default: str, upload: Upload) -> None:
        # Reading: null and "" in JSON are a field left blank, too, so a default takes their place; but a null within
        # `metadata` defines its key, as the one to be removed.
        if name.startswith("metadata."):
            pairs = item.values.setdefault("metadata", {})
            if pairs is not UNREADABLE:
                pairs.setdefault(name.removeprefix("metadata."), clean(default))
        elif name not in item.values or item.values[name] is CLEARED:
            self._take(item, name, default, upload)

    # ---- identity --------------------------------------------------------------------------------------------

    def _identify(self, item: Item, action: Action) -> None:
        """Looks up the first key that the item carries."""
        record_id = item.values.get("id")
        if record_id is not None:
            if record_id is not UNREADABLE and not _is_record_id(record_id):
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
        key = _first_key(item)
        if UNREADABLE in key:
            return  # nobody knows which record is meant
        found = [record_id for record_id, record in self.records.items() if _has_key(record, key)]
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
        keys = [key for item in rejected for key in _all_keys(item)]
        return {
            record_id
            for record_id, record in self.records.items()
            if record_id not in meant and not any(_has_key({**record, "id": record_id}, key) for key in keys)
        }


def _comparable(item: Mapping[str, Any]) -> str:
    # Reading: null, "" and an absent field of JSON are three different things; so are true and "true".
    cleaned = {name: clean(value) if isinstance(value, str) else value for name, value in item.items()}
    return json.dumps(cleaned, sort_keys=True)


def _is_record_id(value: Any) -> bool:
    base58 = set("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
    prefix, _, rest = str(value).partition("_")
    return prefix == "ctct" and len(rest) == 22 and set(rest) <= base58


def _first_key(item: Item) -> tuple[Any, ...]:
    """The key that decides where the item has no id: its kind and its values."""
    for name in ("external_id", "email"):
        value = item.values.get(name)
        if value is not None and value is not CLEARED:
            return (name, UNREADABLE if value is UNREADABLE else _folded(name, value))
    parts = [None if item.values.get(name) is CLEARED else item.values.get(name) for name in ("name", "phone")]
    return ("name+phone", *parts)


def _all_keys(item: Item) -> list[tuple[Any, ...]]:
    """Every key that the item carries and that can be read."""
    keys = [(name, _folded(name, item.key(name))) for name in ("id", "external_id", "email") if item.key(name)]
    # Reading: name and phone are a key of items without email only, and name is what makes it one: contacts have
    # one, while a phone is optional.
    email = item.values.get("email")
    name, phone = item.key("name"), item.values.get("phone")
    if (email is None or email is CLEARED) and name is not None and phone is not UNREADABLE:
        keys.append(("name+phone", name, None if phone is CLEARED else phone))
    return keys


def _is_identified(item: Item) -> bool:
    return bool(_all_keys(item))


def _has_key(record: Record, key: tuple[Any, ...]) -> bool:
    if key[0] == "name+phone":
        return record["email"] is None and (record["name"], record["phone"]) == key[1:]
    return record[key[0]] is not None and _folded(key[0], record[key[0]]) == key[1]


def _folded(name: str, value: str) -> str:
    return value.lower() if name == "email" else value
