"""What batches do to memberships, in memory, one item at a time: written from the specification.

Records are known by their external ids, which are their keys here. A reference is a pair of a form and a key, whose
text depends on the records that there are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Resource = Literal["contact", "group"]
Form = Literal["external id", "id", "name", "email", "qualified", "text"]

CONTACTS: dict[str, dict[str, str | None]] = {
    "c0": {"name": "Zero", "email": "zero@example.com"},
    "c1": {"name": "One", "email": "twin@example.com"},
    "c2": {"name": "Two", "email": "Twin@example.com"},
    "c3": {"name": "Three", "email": None},
}
GROUPS: dict[str, dict[str, str | None]] = {
    "g0": {"name": "Zeros", "location_id": None},
    "g1": {"name": "Twins", "location_id": None},
    "g2": {"name": "Twins", "location_id": "loc_9"},
}


@dataclass(frozen=True)
class Reference:
    """How an item refers to a record; a `text` is given as it is."""

    form: Form
    key: str


# What an item says of a field: nothing (absent), null, a list, or an object of lists.
Said = Any


@dataclass(frozen=True)
class Item:
    """One item; `said` are the fields that it carries beside its external id and what never changes."""

    key: str
    said: Mapping[str, Said]


@dataclass(frozen=True)
class Upload:
    """One batch; of a delete only the items' keys count."""

    resource: Resource
    action: Literal["merge", "overwrite", "delete"]
    items: tuple[Item, ...]


@dataclass
class Expected:
    """What a batch is to do: per row an outcome and errors' codes, and the keys of the records it removes."""

    outcomes: dict[int, str] = field(default_factory=dict)
    errors: dict[int, list[str]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)

    @property
    def fails(self) -> bool:
        """Whether no item is valid."""
        return bool(self.outcomes) and len(self.errors) == len(self.outcomes)


@dataclass
class MembersModel:
    """One organization.

    Attributes:
        ids: of the records that there are, by their keys.
        kinds: what each group is of: contact or location.
        members: whether each membership, of a group and a contact or location, is primary.
    """

    ids: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    members: dict[tuple[str, str], bool] = field(default_factory=dict)

    # ---- references ----------------------------------------------------------------------------------------------

    def text(self, reference: Reference) -> str:
        """The text by which an item refers to a record."""
        key = reference.key
        if reference.form == "id":
            unknown = f"{'ctct_' if key in CONTACTS else 'grp_'}{int(key[1:]) + 1:9<22}"
            return self.ids.get(key, unknown)
        if reference.form in ("external id", "text"):
            return key
        values = CONTACTS[key] if key in CONTACTS else GROUPS[key]
        if reference.form == "name":
            return str(values["name"])
        email = (values["email"] or "nobody@example.com").upper()
        return email if reference.form == "email" else f"{values['name']}:::{email}"

    def _named_by(self, table: Mapping[str, Mapping[str, str | None]], text: str) -> list[str]:
        """The keys of the records that a text names: by the first way in which it names any."""
        there = [key for key in table if key in self.ids and self.kinds.get(key, "contact") == "contact"]
        by_key = [key for key in there if text in (self.ids[key], key)]
        if by_key:
            return by_key
        found = []
        for key in there:
            name, email = table[key]["name"], (table[key].get("email") or "").lower()
            ways = [name] if table is GROUPS else [email, f"{name}:::{email}"] if email else []
            given = text if table is GROUPS else _folded(text)
            if given in ways:
                found.append(key)
        return found

    def _resolve(
        self, table: Mapping[str, Mapping[str, str | None]], texts: Iterable[str]
    ) -> tuple[dict[str, str], list[str]]:
        """The key that each text means, and the codes of those that mean none or several."""
        meant: dict[str, str] = {}
        codes = []
        for text in dict.fromkeys(texts):
            found = self._named_by(table, text)
            if len(found) == 1:
                meant[text] = found[0]
            else:
                codes.append("ambiguous_match" if found else "reference_not_found")
        return meant, codes

    # ---- items ---------------------------------------------------------------------------------------------------

    def _contact(self, item: Item) -> tuple[list[str], dict[str, bool]]:
        """Errors, and the groups that the contact would have, with whether it is primary there."""
        before = {group: primary for (group, member), primary in self.members.items() if member == item.key}
        said = item.said.get("groups", [])
        lists = {"set": []} if said is None else {"add": said} if isinstance(said, list) else said
        if "set" in lists and len(lists) > 1:
            return ["conflict"], before
        texts = {name: [self.text(reference) for reference in listed] for name, listed in lists.items()}
        meant, codes = self._resolve(GROUPS, [text for listed in texts.values() for text in listed])
        to = {name: {meant[text] for text in listed if text in meant} for name, listed in texts.items()}
        removed = to.get("remove", set())
        codes += ["conflict" for text in dict.fromkeys(texts.get("add", [])) if meant.get(text) in removed]
        kept = set() if "set" in lists else set(before) - removed
        after = kept | to.get("add", set()) | to.get("set", set())
        return codes, {group: before.get(group, False) for group in after}

    def _group(self, item: Item) -> tuple[list[str], dict[str, bool], str]:
        """Errors, the members that the group would have, with whether they are primary, and its kind."""
        before = {member: primary for (group, member), primary in self.members.items() if group == item.key}
        was = self.kinds.get(item.key, "contact")
        kind = (item.said["resource"] or "contact") if "resource" in item.said else was
        children, codes = self._listed(item, "children", kind)
        marked, more = self._listed(item, "primary", kind)
        codes += more
        after = set(before) if children is None else set(children.values())
        if children is None and before and kind != was and item.key in self.ids:
            codes.append("conflict")
        # Of the other kind, what is marked is none of the members, though a text may read like the name of one here.
        eligible = after if children is not None or kind == was else set()
        codes += ["conflict" for meant in (marked or {}).values() if meant not in eligible]
        return (
            codes,
            {member: before.get(member, False) if marked is None else member in marked.values() for member in after},
            kind,
        )

    def _listed(self, item: Item, name: str, kind: str) -> tuple[dict[str, str] | None, list[str]]:
        """What each text of a group's field means; None where the item does not carry the field."""
        if name not in item.said:
            return None, []
        texts = [self.text(reference) for reference in item.said[name] or []]
        if kind == "contact":
            return self._resolve(CONTACTS, texts)
        codes = ["invalid_format" for text in dict.fromkeys(texts) if not text.startswith("loc_")]
        return {text: text for text in texts}, codes

    # ---- batches -------------------------------------------------------------------------------------------------

    def run(self, upload: Upload) -> Expected:
        """Does what the batch does, but for the ids of new records, which `learn` adds."""
        expected = Expected()
        table = CONTACTS if upload.resource == "contact" else GROUPS
        there = {key for key in table if key in self.ids}
        if upload.action == "delete":
            for row, item in enumerate(upload.items, start=1):
                expected.outcomes[row] = "deleted" if item.key in there else "rejected"
                if item.key not in there:
                    expected.errors[row] = ["id_not_found"]
            expected.removed = {item.key for item in upload.items} & there
        else:
            members, kinds = dict(self.members), dict(self.kinds)
            for row, item in enumerate(upload.items, start=1):
                self._item(upload.resource, row, item, expected, (members, kinds))
            if not expected.fails:
                self.members, self.kinds = members, kinds
            if upload.action == "overwrite" and not expected.fails:
                expected.removed = there - {item.key for item in upload.items} - self._kept(upload, expected)
        for key in expected.removed:
            del self.ids[key]
            self.kinds.pop(key, None)
            self.members = {pair: primary for pair, primary in self.members.items() if key not in pair}
        return expected

    def _kept(self, upload: Upload, expected: Expected) -> set[str]:
        """The records that share a natural key with a rejected item; of these groups, no two have the same."""
        if upload.resource == "group":
            return set()
        rejected = [CONTACTS[upload.items[row - 1].key]["email"] for row in expected.errors]
        emails = {email.lower() for email in rejected if email}
        return {key for key, contact in CONTACTS.items() if (contact["email"] or "").lower() in emails}

    def _item(
        self,
        resource: Resource,
        row: int,
        item: Item,
        expected: Expected,
        after_all: tuple[dict[tuple[str, str], bool], dict[str, str]],
    ) -> None:
        members, kinds = after_all
        kind = None
        if resource == "contact":
            codes, links = self._contact(item)
            after = {(group, item.key): primary for group, primary in links.items()}
        else:
            codes, links, kind = self._group(item)
            after = {(item.key, member): primary for member, primary in links.items()}
        if codes:
            expected.outcomes[row], expected.errors[row] = "rejected", sorted(codes)
            return
        before = {pair: primary for pair, primary in self.members.items() if pair[resource == "contact"] == item.key}
        same = after == before and kind == (None if kind is None else self.kinds.get(item.key))
        outcome = "created" if item.key not in self.ids else "unchanged" if same else "updated"
        expected.outcomes[row] = outcome
        if outcome != "unchanged":
            expected.written.add(item.key)
        for pair in before:
            del members[pair]
        members |= after
        if kind is not None:
            kinds[item.key] = kind


def _folded(text: str) -> str:
    """With the address in lower case."""
    name, colons, email = text.rpartition(":::")
    return f"{name}{colons}{email.lower()}"
