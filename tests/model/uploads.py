"""Random uploads from small alphabets, so that keys meet often, and the files that they make."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from model_items import Action, Format, Record, UnreadableRow, Upload

EMAILS = {text: text for text in ("ann@example.com", "ANN@example.com", "bob@example.com", "cy@example.com")} | {
    "Bob@EXAMPLE.com": "Bob@example.com"
}
PHONES = {
    "+14155552671": "+14155552671",
    "(415) 555-2671": "+14155552671",
    "+14155552672": "+14155552672",
}
EXTERNAL_IDS = ("e1", "e2", "e3", "e4")
NAMES = ("Ada", "Bob", "Zo\u00eb")
TOO_LONG = "x" * 256

STRANGER = "ctct_" + "9" * 22
NOBODY = "ctct_" + "8" * 22
MALFORMED_IDS = ("ctct_short", "ship_" + "9" * 22, "ctct_" + "0" * 22)


@dataclass(frozen=True)
class IdOf:
    """Stands for the id of a record that exists, or existed, when the upload is made: `place` counts round."""

    kind: str
    place: int


def ids() -> st.SearchStrategy[Any]:
    """Mostly of records that exist; else of deleted ones, another organization's, and malformed ones."""
    live = st.builds(IdOf, st.just("live"), st.integers(0, 5))
    stale = st.builds(IdOf, st.just("stale"), st.integers(0, 3))
    return st.one_of(live, live, live, live, stale, st.sampled_from((STRANGER, NOBODY, *MALFORMED_IDS)))


# Valid values stand several times, so that most items have no error.
_FLAT: dict[str, tuple[str, ...]] = {
    "external_id": (*EXTERNAL_IDS * 4, " e1 ", "", "", TOO_LONG),
    "name": (*NAMES * 4, "Zoe\u0308", " Ada", "", TOO_LONG),
    "email": (*EMAILS, *EMAILS, *EMAILS, "", "", "@"),
    "phone": (*PHONES, *PHONES, *PHONES, "", "", "12"),
    "notes": ("n1", "n2", "n1", "n2", "n1", "n2", "", "", "bell\x07"),
    "is_primary": ("true", "yes", "no", "0", "", "maybe"),
    "metadata.k": ("1", "2", ""),
}
_JSON: dict[str, tuple[Any, ...]] = {
    **{name: (*values, *values, None) for name, values in _FLAT.items() if name != "metadata.k"},
    "external_id": (*_FLAT["external_id"] * 2, None, 5),
    "is_primary": (True, False, True, False, "yes", "maybe", None),
    "metadata": ({"k": "1"}, {"k": "2"}, {"k": None, "m": "1"}, {"m": None}, {}, None, "no object"),
}
_UNREADABLE_JSON = ("5", '"text"', '{"name": "Ada", "name": "Bob"}')


def _json_items(action: Action) -> st.SearchStrategy[Any]:
    fields = {name: st.sampled_from(values) for name, values in _JSON.items()}
    usual = {"name": fields["name"]}
    others = {name: strategy for name, strategy in fields.items() if name != "name"}
    if action == "delete":
        return _rarely_unreadable(
            st.fixed_dictionaries({"id": ids()}, optional={"name": fields["name"], "notes": fields["notes"]}),
            st.fixed_dictionaries({}, optional={"id": st.sampled_from((None, "", 5)), "name": fields["name"]}),
            st.just({"id": STRANGER, "colour": "red"}),
        )
    return _rarely_unreadable(
        *[st.fixed_dictionaries(usual, optional=others)] * 6,
        *[st.fixed_dictionaries({"id": ids()}, optional=fields)] * 3,
        st.fixed_dictionaries({}, optional=fields),
        st.fixed_dictionaries({"colour": st.just("red")}, optional=fields),
    )


def _rarely_unreadable(*readable: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*readable, *readable, st.sampled_from(_UNREADABLE_JSON).map(UnreadableRow))


@st.composite
def _csv_items(draw: st.DrawFn, action: Action) -> tuple[list[str], list[Any]]:
    columns = draw(st.lists(st.sampled_from([*_FLAT, "id"]), min_size=2, max_size=5, unique=True))
    if action == "delete" and "id" not in columns:
        columns[0] = "id"
    elif action != "delete" and "name" not in columns and draw(st.integers(0, 3)):
        columns.append("name")
    cells = {name: st.sampled_from(_FLAT[name]) for name in columns if name != "id"}
    if "id" in columns:
        cells["id"] = st.one_of(ids(), ids(), ids(), st.just(""))
    row = st.fixed_dictionaries({name: cells[name] for name in columns})
    broken = st.just(UnreadableRow(",".join(["x"] * (len(columns) + 1))))
    return columns, draw(st.lists(st.one_of(*[row] * 9, broken), max_size=7))


@st.composite
def uploads(draw: st.DrawFn, action: Action, upload_format: Format) -> Upload:
    """Any upload of the format for the action."""
    columns: list[str] = []
    if upload_format == "csv":
        columns, items = draw(_csv_items(action))
    else:
        items = draw(st.lists(_json_items(action), max_size=7))
    if items:
        items += [items[place % len(items)] for place in draw(st.lists(st.integers(0, 6), max_size=2))]
    return Upload(
        action=action,
        format=upload_format,
        items=items,
        columns=columns,
        duplicate_handling=draw(st.sampled_from(("ignore_all", "use_first", "use_last"))),
        blank_cells=draw(st.sampled_from((None, None, "keep", "clear"))),
        properties=draw(
            st.sampled_from(
                ({}, {}, {}, {"notes": "default"}, {"phone": "(415) 555-2671"}, {"name": "Ada", "metadata.k": "d"})
            )
        ),
        delete_limit=draw(st.sampled_from((None, None, "none", "0", "1", "2", "34%", "50%", "100%"))),
        reject_limit=draw(st.sampled_from((*["none"] * 5, "0", "1", "2", "20%", "50%", "100%"))),
        allow_empty=draw(st.booleans()) if action == "overwrite" else False,
    )


def with_ids(upload: Upload, live: Sequence[str], stale: Sequence[str]) -> Upload:
    """The upload with real ids in the places that stand for one."""

    def resolved(value: Any) -> Any:
        if not isinstance(value, IdOf):
            return value
        known = live if value.kind == "live" else stale
        return known[value.place % len(known)] if known else NOBODY

    def item(uploaded: Mapping[str, Any] | UnreadableRow) -> Mapping[str, Any] | UnreadableRow:
        if isinstance(uploaded, UnreadableRow):
            return uploaded
        return {name: resolved(value) for name, value in uploaded.items()}

    return replace(upload, items=[item(uploaded) for uploaded in upload.items])


def payload(upload: Upload) -> bytes:
    """The file."""
    if upload.format == "json":
        texts = [item.text if isinstance(item, UnreadableRow) else json.dumps(item) for item in upload.items]
        return f"[{','.join(texts)}]".encode()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(upload.columns)
    for item in upload.items:
        if isinstance(item, UnreadableRow):
            file.write(item.text + "\n")
        else:
            writer.writerow([item[name] for name in upload.columns])
    return file.getvalue().encode()


def first_records() -> st.SearchStrategy[dict[str, Record]]:
    """What an organization has at the beginning: any keys, but each external id once."""
    record = st.fixed_dictionaries(
        {"name": st.sampled_from(NAMES)},
        optional={
            "email": st.sampled_from(sorted(set(EMAILS.values()))),
            "phone": st.sampled_from(sorted(set(PHONES.values()))),
            "notes": st.sampled_from(("n1", "n2")),
            "metadata": st.sampled_from(({"k": "1"}, {"k": "1", "m": "1"})),
        },
    )

    def together(rows: list[Record], external_ids: list[str]) -> dict[str, Record]:
        return {
            "ctct_" + str(place + 1) * 22: {**row, "external_id": external_id or None}
            for place, (row, external_id) in enumerate(zip(rows, external_ids, strict=False))
        }

    some = st.permutations((*EXTERNAL_IDS[:3], "", ""))
    return st.builds(together, st.lists(record, max_size=5), some)
