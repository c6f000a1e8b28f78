"""What a merge batch does to an organization's contacts, from the file to the records, statistics and artifacts."""

from typing import Any

import psycopg
import pytest
from batch_runs import Runner, arrived, as_csv, contacts, counted, insert_contacts, new_organization
from staged_rows import staged_rows

from batch_pipeline.batches.locks import take_turn
from batch_pipeline.storage import keys
from batch_pipeline.system import System

NOBODY = "ctct_" + "2" * 22


@pytest.fixture
def run(module_system: System) -> Runner:
    return Runner(module_system, new_organization(module_system))


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    kept = ("external_id", "name", "email", "phone", "notes", "address", "is_primary", "metadata")
    return {name: record[name] for name in kept if record[name] not in (None, {})}


# ---- repetition and statistics ---------------------------------------------------------------------------------


def test_a_second_identical_run_changes_nothing(run: Runner) -> None:
    rows = [
        {"external_id": "a", "name": "Ada", "email": "ada@example.com", "metadata.k": "v"},
        {"external_id": "b", "name": "Bob", "phone": "+14155552671", "is_primary": "yes"},
    ]
    assert counted(run.csv(*rows)) == {"created": 2}
    before = run.contacts()
    assert counted(run.csv(*rows)) == {"unchanged": 2}
    assert run.contacts() == before


def test_statistics_account_for_every_item_and_the_result_names_each(run: Runner) -> None:
    run.csv({"external_id": "u", "name": "Una"}, {"external_id": "s", "name": "Sam"})
    batch = run.csv(
        {"external_id": "n", "name": "Nia"},
        {"external_id": "u", "name": "Una Two"},
        {"external_id": "s", "name": "Sam"},
        {"external_id": "x", "name": "Xi", "email": "no address"},
        {"external_id": "n", "name": "Nia"},
        save_result=True,
    )
    assert counted(batch) == {"created": 1, "updated": 1, "unchanged": 1, "rejected": 1, "duplicates": 1}
    assert batch.stats.items_read == batch.facts.items == 5
    assert run.outcomes(batch) == ["created", "updated", "unchanged", "rejected", "duplicate"]
    assert [(p.name, p.status, p.total, p.success, p.error) for p in batch.phases] == [
        ("parsing", "completed", 4, 4, 0),
        ("validation", "completed", 4, 3, 1),
        ("processing", "completed", 3, 3, 0),
        ("cleanup", "skipped", None, 0, 0),
    ]


def test_without_the_option_there_is_no_result_file(run: Runner) -> None:
    batch = run.csv({"name": "Ada"})
    assert not batch.has_result_file
    assert not run.system.store.exists(keys.result_json(batch.id))


@pytest.mark.parametrize("saved", [True, False])
def test_the_upload_is_kept_only_if_asked_for(run: Runner, saved: bool) -> None:
    batch = run.csv({"name": "Ada"}, save_upload=saved)
    assert (batch.status, batch.has_upload_file) == ("completed", saved)
    assert run.system.store.exists(str(batch.upload_key)) is saved


def test_a_completed_batch_leaves_no_staged_rows(run: Runner) -> None:
    batch = run.csv({"name": "Ada"})
    assert staged_rows(run.system.database_url, batch.id) == {}


# ---- partial updates -------------------------------------------------------------------------------------------


def test_a_missing_column_keeps_the_field(run: Runner) -> None:
    run.csv({"external_id": "a", "name": "Ada", "notes": "kept"})
    run.csv({"external_id": "a", "name": "Ada B"})
    assert _shown(run.one()) == {"external_id": "a", "name": "Ada B", "notes": "kept"}


@pytest.mark.parametrize(("option", "kept"), [(None, True), ("keep", True), ("clear", False)])
def test_an_empty_cell_follows_blank_cells(run: Runner, option: str | None, kept: bool) -> None:
    run.csv({"external_id": "a", "name": "Ada", "notes": "old", "metadata.k": "v"})
    run.csv({"external_id": "a", "name": "Ada", "notes": "", "metadata.k": ""}, blank_cells=option)
    left = {"notes": "old", "metadata": {"k": "v"}} if kept else {}
    assert _shown(run.one()) == {"external_id": "a", "name": "Ada", **left}


@pytest.mark.parametrize(("change", "after"), [({"notes": None}, None), ({"notes": ""}, None), ({}, "old")])
def test_json_null_and_empty_text_clear_and_an_absent_field_does_not(
    run: Runner, change: dict[str, Any], after: str | None
) -> None:
    run.json({"external_id": "a", "name": "Ada", "notes": "old"})
    run.json({"external_id": "a", **change})
    assert run.one()["notes"] == after


def test_a_required_field_can_not_be_cleared_or_missing(run: Runner) -> None:
    run.json({"external_id": "a", "name": "Ada"})
    batch = run.json({"external_id": "a", "name": None}, {"external_id": "b"}, {"external_id": "c", "name": "Cy"})
    assert run.codes(batch) == [(1, ["required"]), (2, ["required"])]


def test_metadata_merges_by_key_and_null_removes_one(run: Runner) -> None:
    run.json({"external_id": "a", "name": "Ada", "metadata": {"a": "1", "b": "2", "n": None}})
    assert run.one()["metadata"] == {"a": "1", "b": "2"}
    assert counted(run.json({"external_id": "a", "metadata": {"b": None, "c": "3"}})) == {"updated": 1}
    assert run.one()["metadata"] == {"a": "1", "c": "3"}
    assert counted(run.json({"external_id": "a", "metadata": {"z": None, "a": "1"}})) == {"unchanged": 1}
    assert counted(run.json({"external_id": "a", "metadata": None})) == {"updated": 1}
    assert run.one()["metadata"] == {}


def test_the_limit_on_metadata_holds_for_the_record_as_stored(run: Runner) -> None:
    run.json({"external_id": "a", "name": "Ada", "metadata": {f"k{n}": "v" for n in range(25)}})
    batch = run.json(
        {"external_id": "a", "metadata": {"one more": "v"}},
        {"external_id": "b", "name": "Bob", "metadata": {"fine": "v"}},
    )
    assert run.codes(batch) == [(1, ["too_many"])]
    exchanged = run.json({"external_id": "a", "metadata": {"k0": None, "one more": "v"}})
    assert counted(exchanged) == {"updated": 1}


def test_first_and_last_name_make_the_name(run: Runner) -> None:
    batch = run.csv(
        {"first_name": "Ada", "last_name": "Lovelace", "name": "", "external_id": "a"},
        {"first_name": "", "last_name": "Cher", "name": "", "external_id": "b"},
        {"first_name": "", "last_name": "", "name": "Prince", "external_id": "c"},
        {"first_name": "Both", "last_name": "", "name": "Both", "external_id": "d"},
    )
    assert [record["name"] for record in run.contacts()] == ["Ada Lovelace", "Cher", "Prince"]
    assert run.codes(batch) == [(4, ["conflict"])]


# ---- duplicates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handling", "name", "stats"),
    [
        ("ignore_all", None, {"created": 1, "rejected": 3}),
        ("use_first", "first", {"created": 2, "duplicates": 2}),
        ("use_last", "last", {"created": 2, "duplicates": 2}),
    ],
)
def test_duplicate_handling_decides_among_differing_items_of_one_record(
    run: Runner, handling: str, name: str | None, stats: dict[str, int]
) -> None:
    batch = run.csv(
        *({"external_id": "same", "name": text} for text in ("first", "middle", "last")),
        {"external_id": "other", "name": "other"},
        duplicate_handling=handling,
    )
    assert counted(batch) == stats
    assert {record["name"] for record in run.contacts()} == {"other", name} - {None}
    if handling == "ignore_all":
        assert run.codes(batch) == [(row, ["duplicate_key"]) for row in (1, 2, 3)]


def test_contradictions_are_found_among_the_valid_items_only(run: Runner) -> None:
    batch = run.csv(
        {"external_id": "same", "name": "fine", "email": ""}, {"external_id": "same", "name": "bad", "email": "@"}
    )
    assert run.codes(batch) == [(2, ["invalid_format"])]
    assert run.one()["name"] == "fine"


@pytest.mark.parametrize(("handling", "outcomes"), [("use_first", 1), ("use_last", 2), ("ignore_all", 1)])
def test_equal_items_are_one_item(run: Runner, handling: str, outcomes: int) -> None:
    batch = run.bytes(
        "name,notes\nAda, cafe\u0301 \n  Ada,caf\u00e9\n".encode(), duplicate_handling=handling, save_result=True
    )
    assert counted(batch) == {"created": 1, "duplicates": 1}
    assert run.outcomes(batch).index("created") + 1 == outcomes
    assert run.one()["notes"] == "caf\u00e9"


def test_items_that_identify_one_record_by_different_keys_contradict_each_other(run: Runner) -> None:
    run.csv({"external_id": "a", "name": "Ada", "email": "ada@example.com"})
    batch = run.json({"external_id": "a", "notes": "1"}, {"email": "ADA@example.com", "notes": "2"}, {"name": "New"})
    assert run.codes(batch) == [(1, ["duplicate_key"]), (2, ["duplicate_key"])]


# ---- identity --------------------------------------------------------------------------------------------------


def test_records_are_found_by_id_then_external_id_then_email(run: Runner) -> None:
    run.csv({"external_id": "a", "name": "Ada", "email": "ada@example.com"})
    record_id = run.one()["id"]
    for item in (
        {"id": record_id, "external_id": "b"},
        {"external_id": "b", "email": "other@example.com"},
        {"email": "OTHER@Example.COM", "notes": "by email"},
    ):
        assert counted(run.json(item)) == {"updated": 1}
    found = run.one()
    assert (found["id"], found["external_id"], found["notes"]) == (record_id, "b", "by email")
    assert found["email"] == "OTHER@example.com"  # the item's own spelling, its domain in lower case


def test_name_and_phone_find_only_records_without_email(run: Runner) -> None:
    run.json({"name": "Ada", "phone": "+14155552671", "email": "ada@example.com"}, {"name": "Bob"})
    batch = run.json({"name": "Ada", "phone": "+14155552671"}, {"name": "Bob", "notes": "found"})
    assert counted(batch) == {"created": 1, "updated": 1}
    again = run.json({"name": "Ada", "phone": "(415) 555-2671"}, {"name": "Bob", "phone": "+14155552671"})
    assert counted(again) == {"unchanged": 1, "created": 1}


def test_only_ids_of_this_organization_are_found(run: Runner) -> None:
    stranger = Runner(run.system, new_organization(run.system))
    stranger.csv({"name": "Stranger"})
    batch = run.json(
        {"id": stranger.one()["id"], "name": "x"},
        {"id": NOBODY, "name": "y"},
        {"id": "ctct_short", "name": "z"},
        {"name": "Fine"},
    )
    assert run.codes(batch) == [(1, ["id_not_found"]), (2, ["id_not_found"]), (3, ["id_malformed"])]
    assert stranger.one()["name"] == "Stranger"


def test_a_key_of_several_records_is_ambiguous(run: Runner) -> None:
    for number in ("1", "2"):
        record = {"id": "ctct_" + number * 22, "name": "Ada", "email": "ada@example.com"}
        insert_contacts(run.system, run.organization_id, record)
    batch = run.json({"email": "Ada@Example.com", "notes": "which?"}, {"id": "ctct_" + "1" * 22, "notes": "this"})
    assert run.codes(batch) == [(1, ["ambiguous_match"])]
    assert [record["notes"] for record in run.contacts()] == ["this", None]


def test_an_external_id_goes_to_one_record_only(run: Runner) -> None:
    run.csv({"external_id": "taken", "name": "Ada"}, {"external_id": "b", "name": "Bob"}, {"name": "Cy"})
    ids = {record["name"]: record["id"] for record in run.contacts()}
    stored = run.json({"id": ids["Bob"], "external_id": "taken"}, {"id": ids["Cy"], "notes": "fine"})
    assert run.codes(stored) == [(1, ["conflict"])]
    within = run.json(
        {"id": ids["Bob"], "external_id": "new"}, {"external_id": "new", "name": "Di"}, {"name": "Cy", "notes": "more"}
    )
    assert run.codes(within) == [(1, ["conflict"]), (2, ["conflict"])]


# ---- options ---------------------------------------------------------------------------------------------------


def test_properties_fill_in_what_items_leave_out_or_blank(run: Runner) -> None:
    run.csv(
        {"name": "Ada", "notes": ""},
        {"name": "Bob", "notes": "own"},
        properties={"notes": "default", "metadata.source": "fair"},
    )
    assert [(r["notes"], r["metadata"]) for r in run.contacts()] == [
        ("default", {"source": "fair"}),
        ("own", {"source": "fair"}),
    ]


def test_mapped_columns_are_read_under_their_fields_names(run: Runner) -> None:
    batch = run.csv({"Full name": "Ada", "E-mail": "x"}, column_mapping={"name": "Full name", "email": "E-mail"})
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "no_valid_items")
    assert run.system.store.read(keys.errors_csv(batch.id)).startswith(b'"Full name","E-mail",_row,')
    run.csv({"Full name": "Ada"}, column_mapping={"name": "Full name"})
    assert run.one()["name"] == "Ada"


def test_national_phone_numbers_are_read_by_the_batchs_region_or_the_organizations(run: Runner) -> None:
    germans = Runner(run.system, new_organization(run.system, region="DE"))
    germans.csv({"name": "Ada", "phone": "030 901820"})
    assert germans.one()["phone"] == "+4930901820"
    run.csv({"name": "Ada", "phone": "030 901820"}, default_region="DE")
    assert run.one()["phone"] == "+4930901820"


# ---- nothing to do, and refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(("payload", "name"), [(b"name,email\n", "a.csv"), (b"[]", "a.json"), (b" [ ] \n", "a.json")])
def test_a_batch_without_items_completes_with_zeros(run: Runner, payload: bytes, name: str) -> None:
    batch = run.bytes(payload, name=name, save_result=True)
    assert counted(batch) == {}
    assert not batch.has_errors_file
    assert run.outcomes(batch) == []


def test_a_batch_without_valid_items_fails_with_an_errors_file(run: Runner) -> None:
    batch = run.csv({"name": "", "email": "@"}, {"name": "x" * 256, "email": ""})
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", "no_valid_items")
    assert [row for row, _ in run.codes(batch)] == [1, 2]
    assert run.contacts() == []


@pytest.mark.parametrize(
    ("payload", "options", "code"),
    [
        (b"", {}, "empty_file"),
        (b"name,colour\nAda,red\n", {}, "unknown_columns"),
        (b"name,name\nAda,Bob\n", {}, "duplicate_headers"),
        (b"Name\nAda\n", {"column_mapping": {"name": "Full name"}}, "missing_columns"),
        (b"name\nAda\n", {"properties": {"colour": "red"}}, "invalid_options"),
        (b"name,notes\nJos\xe9,caf\xc3\xa9\n", {}, "unreadable_file"),
        (b'[{"name": "Ada"},]', {"name": "a.json"}, "unreadable_file"),
    ],
)
def test_a_file_that_is_refused_leaves_nothing_written(
    run: Runner, payload: bytes, options: dict[str, Any], code: str
) -> None:
    batch = run.bytes(payload, **options)
    assert (batch.status, batch.reason and batch.reason.code) == ("failed", code)
    assert batch.phases[0].status == "failed"
    assert run.contacts() == []
    assert not batch.has_errors_file


def test_an_item_that_the_database_refuses_is_rejected_alone(run: Runner) -> None:
    with psycopg.connect(run.system.database_url) as connection:
        connection.execute("ALTER TABLE contacts ADD CONSTRAINT test_refusal CHECK (notes <> 'refuse me')")
    run.csv({"external_id": "5", "name": "old", "notes": "old"})
    try:
        batch = run.csv(
            *({"external_id": str(n), "name": f"n{n}", "notes": "refuse me" if n in (3, 5) else ""} for n in range(9)),
            save_result=True,
        )
    finally:
        with psycopg.connect(run.system.database_url) as connection:
            connection.execute("ALTER TABLE contacts DROP CONSTRAINT test_refusal")
    assert counted(batch) == {"created": 7, "rejected": 2}
    assert run.codes(batch) == [(4, ["write_failed"]), (6, ["write_failed"])]
    assert [(p.success, p.error) for p in batch.phases[:3]] == [(9, 0), (9, 0), (7, 2)]
    assert run.outcomes(batch).count("rejected") == 2
    assert {record["external_id"]: record["name"] for record in run.contacts()} == {
        **{str(n): f"n{n}" for n in range(9) if n not in (3, 5)},
        "5": "old",
    }


def test_records_written_since_validation_change_the_plan(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would create the same contact: the one that comes to its turn second updates it."""
    rows = [{"external_id": "same", "name": "Ada", "notes": "second"}, {"email": "e@example.com", "name": "Eve"}]
    first = arrived(run.system, run.organization_id, as_csv([{**row, "notes": "first"} for row in rows]))
    second = arrived(run.system, run.organization_id, as_csv(rows), save_result=True)
    place = "batch_pipeline.phases.writing.take_turn"

    def other_batch_goes_first(*args: Any, **kwargs: Any) -> Any:
        # The second batch has been validated, and now waits for the turn, which is the first one's by arrival.
        monkeypatch.setattr(place, take_turn)
        assert run.run(first).status == "completed"
        return take_turn(*args, **kwargs)

    monkeypatch.setattr(place, other_batch_goes_first)
    done = run.run(second)
    assert counted(done) == {"updated": 1, "unchanged": 1}
    found = contacts(run.system, run.organization_id)
    assert len(found) == 2
    assert {record["name"]: record["notes"] for record in found} == {"Ada": "second", "Eve": "first"}
    assert run.outcomes(done) == ["updated", "unchanged"]
