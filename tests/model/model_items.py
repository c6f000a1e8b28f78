"""Items of an upload, as the model reads them: their values, what is wrong with each by itself, and their keys.

`batches.md` and `records.md` are the source of every rule here, never the product's code. Where they can be read in
more than one way, a comment that begins with "Reading:" says which way was taken. Of the row rules only those that the
uploads of these tests can break are here; tables of their own hold the others.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["merge", "overwrite", "delete"]
Format = Literal["csv", "json"]
Handling = Literal["ignore_all", "use_first", "use_last"]
Record = dict[str, Any]
Target = tuple[str, ...]  # ("record", id), or ("new", kind of key, key …)

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
    """

    action: Action
    format: Format
    items: Sequence[Mapping[str, Any] | UnreadableRow]
    columns: Sequence[str] = ()
    duplicate_handling: Handling = "ignore_all"
    blank_cells: Literal["keep", "clear"] | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    delete_limit: str | None = None
    reject_limit: str = "none"
    allow_empty: bool = False

    @property
    def blank_clears(self) -> bool:
        if self.format == "json":
            return True  # null and "" clear; blank_cells is about cells
        return (self.blank_cells or ("clear" if self.action == "overwrite" else "keep")) == "clear"


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


class Reader:
    """Reads items; `phones` and `emails` have all valid spellings and how each is stored."""

    def __init__(self, *, phones: Mapping[str, str], emails: Mapping[str, str]) -> None:
        self._phones = phones
        self._emails = emails

    def read(self, row: int, uploaded: Mapping[str, Any], upload: Upload) -> Item:
        """The item with what its own values say, right or wrong."""
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


def comparable(item: Mapping[str, Any]) -> str:
    """Equal texts for equal items."""
    # Reading: null, "" and an absent field of JSON are three different things; so are true and "true".
    cleaned = {name: clean(value) if isinstance(value, str) else value for name, value in item.items()}
    return json.dumps(cleaned, sort_keys=True)


def is_record_id(value: Any) -> bool:
    """Whether it is a contact's id by its form."""
    base58 = set("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
    prefix, _, rest = str(value).partition("_")
    return prefix == "ctct" and len(rest) == 22 and set(rest) <= base58


def first_key(item: Item) -> tuple[Any, ...]:
    """The key that decides where the item has no id: its kind and its values."""
    for name in ("external_id", "email"):
        value = item.values.get(name)
        if value is not None and value is not CLEARED:
            return (name, UNREADABLE if value is UNREADABLE else _folded(name, value))
    parts = [None if item.values.get(name) is CLEARED else item.values.get(name) for name in ("name", "phone")]
    return ("name+phone", *parts)


def all_keys(item: Item) -> list[tuple[Any, ...]]:
    """Every key that the item carries and that can be read."""
    keys: list[tuple[Any, ...]] = [
        (name, _folded(name, item.key(name))) for name in ("id", "external_id", "email") if item.key(name)
    ]
    # Reading: name and phone are a key of items without email only, and name is what makes it one: contacts have
    # one, while a phone is optional.
    email = item.values.get("email")
    name, phone = item.key("name"), item.values.get("phone")
    if (email is None or email is CLEARED) and name is not None and phone is not UNREADABLE:
        keys.append(("name+phone", name, None if phone is CLEARED else phone))
    return keys


def record_keys(item: Item) -> list[tuple[Any, ...]]:
    """Every key of a record that the item carries: name and phone also beside an email, as records may lack theirs."""
    # Reading: "a rejected item carries any of its keys" means the record's keys. Nothing is deleted by accident.
    keys = all_keys(item)
    name, phone = item.key("name"), item.values.get("phone")
    if name is not None and phone is not UNREADABLE:
        keys.append(("name+phone", name, None if phone is CLEARED else phone))
    return keys


def has_key(record: Record, key: tuple[Any, ...]) -> bool:
    """Whether the record (with its id as a field, where that is the key) has the key."""
    if key[0] == "name+phone":
        return record["email"] is None and (record["name"], record["phone"]) == key[1:]
    return record[key[0]] is not None and _folded(key[0], record[key[0]]) == key[1]


def _folded(name: str, value: str) -> str:
    return value.lower() if name == "email" else value
