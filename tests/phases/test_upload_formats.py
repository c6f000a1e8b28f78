"""Every format of upload, from the file to records and artifacts: the same rows do and leave the same, whatever they
came in."""

import csv
import gzip
import io
import json
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_runs import arrived, as_csv, contacts, new_organization
from driving import run_attempt
from workbooks import by_openpyxl

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.storage import keys
from batch_pipeline.system import System

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEADER = ["Full name", "external_id", "email", "phone", "metadata.colour", "notes"]
ROWS = [
    ["Ada Lovelace", "a", "ada@example.com", "(415) 555-2671", "green", "-5 '=x"],
    ["Bob", "b", "", "+1 415 555 2672", "", ""],
    ["", "c", "no address", "+1 415 555 2673", "red", "'=quoted"],
    ["Dan", "d", "dan@example.com", "", "", ""],
    ["Dan", "d", "dan@example.com", "", "", ""],
    ["Eve", "e", "=eve", "+1 1", "", 'a, b\nand "c"'],
]
MAPPING = {"name": "Full name"}


def _csv(delimiter: str = ",", encoding: str = "utf-8") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([HEADER, *ROWS])
    return text.getvalue().encode(encoding)


def _items() -> list[dict[str, str]]:
    return [dict(zip(HEADER, row, strict=True)) for row in ROWS]


def _parquet() -> bytes:
    columns = {name: [row[place] or None for row in ROWS] for place, name in enumerate(HEADER)}
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


FORMATS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "CSV": ("people.csv", _csv),
    "semicolons in UTF-16": ("people.csv", lambda: _csv(";", "utf-16")),
    "CSV in gzip": ("people.csv.gz", lambda: gzip.compress(_csv())),
    "Parquet": ("people.parquet", _parquet),
    "Parquet in zstd": ("people.parquet.zst", lambda: bytes(zstd.compress(_parquet()))),
    "XLSX": ("people.xlsx", lambda: by_openpyxl([HEADER, *ROWS])),
    "JSON in zstd": ("people.json.zst", lambda: bytes(zstd.compress(json.dumps(_items()).encode()))),
    "NDJSON in gzip": ("people", lambda: gzip.compress("\n".join(map(json.dumps, _items())).encode())),
}


def _run(system: System, organization: str, payload: bytes, **options: Any) -> Batch:
    return run_attempt(system, arrived(system, organization, payload, **options))


def _shown(system: System, organization: str) -> list[tuple[Any, ...]]:
    columns = ("external_id", "name", "email", "phone", "metadata", "notes", "id_number")
    return sorted(tuple(str(row[name]) for name in columns) for row in contacts(system, organization))


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_have_the_same_results_in_every_format(module_system: System, name: str) -> None:
    system = module_system
    organization = new_organization(system)
    file_name, make = FORMATS[name]
    options = {"column_mapping": MAPPING, "properties": {"id_number": "7"}, "save_result": True}
    payload = make()
    batch = _run(system, organization, payload, name=file_name, **options)
    assert batch.status == "completed", batch.reason
    assert (batch.stats.created, batch.stats.rejected, batch.stats.duplicates) == (3, 2, 1)
    green = "{'colour': 'green'}"
    assert _shown(system, organization) == [
        ("a", "Ada Lovelace", "ada@example.com", "+14155552671", green, "-5 '=x", "7"),
        ("b", "Bob", "None", "+14155552672", "{}", "None", "7"),
        ("d", "Dan", "dan@example.com", "None", "{}", "None", "7"),
    ]
    assert system.store.read(str(batch.upload_key)) == payload

    errors = system.store.read(keys.errors_csv(batch.id))
    header, *rejected = csv.reader(io.StringIO(errors.decode(), newline=""))
    assert header == [*HEADER, "_row", "_errors", "_codes"]
    assert [row[:7] for row in rejected] == [
        ["", "c", "no address", "'+1 415 555 2673", "red", "''=quoted", "3"],
        ["Eve", "e", "'=eve", "'+1 1", "", 'a, b\nand "c"', "6"],
    ]
    entries = json.loads(system.store.read(keys.errors_json(batch.id)))
    assert [(entry["row"], entry["item"]) for entry in entries] == [(3, _items()[2]), (6, _items()[5])]

    corrected = errors.replace(b'"","c","no address"', b'"Cy","c","cy@example.com"')
    again = _run(system, organization, corrected, name="errors.csv", **options)
    assert (again.stats.created, again.stats.rejected) == (1, 1)
    assert ("c", "Cy", "cy@example.com", "+14155552673", "{'colour': 'red'}", "'=quoted", "7") in _shown(
        system, organization
    )
    (left,) = json.loads(system.store.read(keys.errors_json(again.id)))
    assert left == {**entries[1], "row": 2}


@pytest.mark.parametrize("kind", ["typed Parquet", "JSON"])
@pytest.mark.parametrize(("blank_cells", "kept"), [(None, True), ("clear", False)])
def test_a_null_in_parquet_is_an_empty_cell(
    module_system: System, kind: str, blank_cells: str | None, kept: bool
) -> None:
    system = module_system
    organization = new_organization(system)
    first = {"external_id": "1", "name": "Ada", "phone": "+14155552671", "notes": "old", "is_primary": True}
    _run(system, organization, json.dumps([first]).encode(), name="people.json")
    second = {"external_id": 1, "name": "Ada", "phone": 4155552671, "notes": None, "is_primary": True}
    if kind == "JSON":
        second["external_id"], second["phone"] = "1", "4155552671"
        kept = False  # null in JSON clears
        payload = json.dumps([second]).encode()
    else:
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([second], pa.schema([*_TYPES, ("notes", pa.string())])), file)
        payload = file.getvalue()
    batch = _run(system, organization, payload, blank_cells=blank_cells)
    assert batch.status == "completed", batch.reason
    (stored,) = contacts(system, organization)
    assert (stored["phone"], stored["is_primary"]) == ("+14155552671", True)
    assert stored["notes"] == ("old" if kept else None)


_TYPES = [
    ("external_id", pa.int64()),
    ("name", pa.dictionary(pa.int32(), pa.string())),
    ("phone", pa.float64()),
    ("is_primary", pa.bool_()),
]


def test_nested_and_list_cells_are_read_in_every_flat_format(module_system: System) -> None:
    system = module_system
    stored = []
    for name in ("people.csv", "people.xlsx", "people.parquet"):
        organization = new_organization(system)
        header = ["external_id", "name", "email", "metadata", "alternate_names"]
        row = ["a", "Ada", "ada@example.com", '{"colour":"green"}', '["A","B, C"]']
        if name.endswith(".xlsx"):
            payload = by_openpyxl([header, row])
        elif name.endswith(".csv"):
            text = io.StringIO()
            csv.writer(text).writerows([header, row])
            payload = text.getvalue().encode()
        else:
            plain = {field: [text] for field, text in zip(header[:3], row[:3], strict=True)}
            nested = {"metadata": [{"colour": "green", "size": None}], "alternate_names": [["A", "B, C"]]}
            file = io.BytesIO()
            pq.write_table(pa.table(plain | nested), file)
            payload = file.getvalue()
        batch = _run(system, organization, payload, name=name)
        assert (batch.status, batch.stats.created) == ("completed", 1), (batch.reason, batch.stats)
        (contact,) = contacts(system, organization)
        stored.append((contact["metadata"], contact["alternate_names"]))
    assert stored == [({"colour": "green"}, ["A", "B, C"])] * 3


@pytest.mark.parametrize("name", ["CSV", "Parquet", "XLSX"])
def test_columns_of_flat_files_are_checked_before_any_row(module_system: System, name: str) -> None:
    system = module_system
    organization = new_organization(system)
    payload = FORMATS[name][1]()
    for options, code in (
        ({}, "unknown_columns"),
        ({"column_mapping": {"name": "Name"}}, "missing_columns"),
        ({"column_mapping": {"name": "notes"}}, "unknown_columns"),
        ({"action": Action.delete, "column_mapping": MAPPING}, "missing_columns"),
    ):
        batch = _run(system, organization, payload, **options)
        assert (batch.status, batch.reason and batch.reason.code) == ("failed", code)
    assert contacts(system, organization) == []


def test_an_upload_with_the_maximum_of_columns_gives_a_valid_errors_file(
    module_system: System,
) -> None:
    system = module_system
    organization = new_organization(system)
    names = [f"metadata.k{number}" for number in range(498)]
    header, row = ["name", "email", *names], ["Ada", "no address", *[""] * len(names)]
    batch = _run(system, organization, "\n".join([",".join(header), ",".join(row), "x"]).encode())
    assert batch.reason is not None
    assert batch.reason.code == "no_valid_items"
    errors = system.store.read(keys.errors_csv(batch.id))
    assert len(next(csv.reader(io.StringIO(errors.decode())))) == 504
    lines = errors.replace(b"no address", b"ada@example.com").splitlines(keepends=True)
    again = _run(system, organization, b"".join(lines[:2]), name="errors.csv")
    assert (again.status, again.stats.created) == ("completed", 1)


def test_texts_of_any_kind_are_stored_as_given_and_never_run(module_system: System) -> None:
    system = module_system
    texts = [
        "'; DROP TABLE contacts; --",
        "$(touch /tmp/x) `id`",
        "=cmd|' /C calc'!A0",
        "@SUM(1+1)*cmd",
        "\u202eevil",
        "a\u200bb",
        "שלום עולם",
        "日本語 한국어",
        "👩‍👩‍👧 family",
        "%s {0} \\N \\x",
        "NULL",
        "<script>&amp;",
        "e\u0301 becomes é",
    ]
    stored = [unicodedata.normalize("NFC", text) for text in texts]
    for name in ("people.csv", "people.json", "people.xlsx"):
        organization = new_organization(system)
        rows = [
            {"external_id": text, "name": text, "notes": text, "metadata.k": text, "email": "" if number else text}
            for number, text in enumerate(texts)
        ]
        header = list(rows[0])
        if name.endswith(".json"):
            payload = json.dumps(
                [{"metadata": {"k": row.pop("metadata.k")}, **row} for row in map(dict, rows)]
            ).encode()
        elif name.endswith(".xlsx"):
            payload = by_openpyxl([header, *([row[field] for field in header] for row in rows)])
        else:
            payload = as_csv(rows)
        batch = _run(system, organization, payload, name=name)
        assert (batch.status, batch.stats.created, batch.stats.rejected) == ("completed", len(texts) - 1, 1)
        found = {row["external_id"]: row for row in contacts(system, organization)}
        assert set(found) == set(stored[1:])
        for text in stored[1:]:
            row = found[text]
            assert (row["name"], row["notes"], row["metadata"]) == (text, text, {"k": text})
        (rejected,) = json.loads(system.store.read(keys.errors_json(batch.id)))
        assert rejected["item"]["notes"] == texts[0]
        assert {error["field"] for error in rejected["errors"]} == {"email"}


def test_control_characters_are_refused_by_the_field_s_name(module_system: System) -> None:
    organization = new_organization(module_system)
    batch = _run(module_system, organization, b"name,notes\nAda,a\x07b\nBob,tab\there\nCy\x00,x\n")
    assert (batch.stats.created, batch.stats.rejected) == (1, 2)
    errors = json.loads(module_system.store.read(keys.errors_json(batch.id)))
    assert [(entry["row"], [(e["field"], e["code"]) for e in entry["errors"]]) for entry in errors] == [
        (1, [("notes", "invalid_format")]),
        (3, [("name", "invalid_format")]),
    ]
