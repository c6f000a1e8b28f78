"""Intake: each object version in the inbox becomes exactly one batch and then leaves the inbox."""

import logging
from dataclasses import replace

import pytest

from batch_pipeline.batches.counts import read_figures
from batch_pipeline.batches.model import Batch
from batch_pipeline.database import borrowed
from batch_pipeline.errors import UnavailableError
from batch_pipeline.intake.inbox import take_in
from batch_pipeline.intake.independent import REFUSED_AT_FIRST
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

FOLDER = "uploads/default/contact/merge"


def upload_of(system: System, batch: Batch) -> bytes:
    assert batch.upload_key is not None
    return system.store.read(batch.upload_key)


@pytest.mark.parametrize(
    "name", ["contacts.csv", "sub/folder/contacts.csv", "all [new] * what?.csv", "Kunden 50% +1.csv"]
)
def test_a_file_is_taken_in_once_and_leaves_the_inbox(system: System, name: str) -> None:
    system.store.write(f"{FOLDER}/{name}", b"name\nAnn\n")

    (batch,) = take_in(system, limit=10)

    assert system.store.list(keys.INBOX) == []
    assert take_in(system, limit=10) == []
    assert batch.name == name.rsplit("/", 1)[-1]
    assert batch.source_key == f"{FOLDER}/{name}"
    assert upload_of(system, batch) == b"name\nAnn\n"


def test_the_sidecar_goes_with_its_file_and_others_stay(system: System) -> None:
    system.store.write(f"{FOLDER}/a.csv.options.json", b'{"duplicate_handling": "use_last", "reject_limit": 0}')
    system.store.write(f"{FOLDER}/a.csv", b"name\nAnn\n")
    system.store.write(f"{FOLDER}/b.csv.part", b"name\n")

    (batch,) = take_in(system, limit=10)

    assert (batch.options["duplicate_handling"], batch.options["reject_limit"]) == ("use_last", "0")
    assert [found.key for found in system.store.list(keys.INBOX)] == [f"{FOLDER}/b.csv.part"]


def test_the_same_content_under_the_same_name_is_another_batch(system: System) -> None:
    batches = []
    for _ in range(3):
        system.store.write(f"{FOLDER}/a.csv", b"name\nAnn\n")
        batches += take_in(system, limit=10)

    assert len({batch.id for batch in batches}) == 3


def test_files_of_equal_time_and_size_are_all_taken_in(system: System) -> None:
    for number in range(7):
        system.store.write(f"{FOLDER}/{number}.csv", b"name\nAnn\n")

    first, rest = take_in(system, limit=4), take_in(system, limit=4)

    assert sorted(batch.name for batch in first + rest) == [f"{number}.csv" for number in range(7)]
    assert system.store.list(keys.INBOX) == []


@pytest.mark.parametrize(
    "folder", ["uploads", "uploads/default", "uploads/nobody/contact/merge", "uploads/default/contact/burn"]
)
def test_a_file_in_an_unknown_folder_becomes_a_failed_batch_with_a_reason(system: System, folder: str) -> None:
    system.store.write(f"{folder}/a.csv", b"name\nAnn\n")

    (batch,) = take_in(system, limit=10)

    assert batch.status == "failed"
    assert batch.reason is not None
    assert batch.reason.code == "unknown_folder"
    assert system.store.list(keys.INBOX) == []
    assert upload_of(system, batch) == b"name\nAnn\n"


WRONG_SIDECARS = {
    "deep": (b"[" * 100_000, "nested too deep"),
    "deep value": (b'{"properties": ' + b'{"a": ' * 50_000 + b"1" + b"}" * 50_001, "nested too deep"),
    "deep option": (b'{"delete_limit": ' + b"[" * 500 + b"]" * 500 + b"}", "delete_limit: must be"),
    "digits": (b'{"timeout_seconds": ' + b"9" * 5_000 + b"}", "too many digits"),
    "half a pair": (b'{"properties": {"notes": "a\\ud800b"}}', "properties: has half a surrogate pair"),
    "half a pair in a name": (b'{"properties": {"\\udfff": "a"}}', "properties: has half a surrogate pair"),
    "half a pair in a header": (b'{"column_mapping": {"name": "\\ud800"}}', "column_mapping: has half a surrogate"),
    "NUL": (b'{"properties": {"no\\u0000tes": "a"}}', "properties: has a NUL"),
    "unknown, half a pair": (b'{"\\ud800": 1}', "unable to parse"),
    "unknown, NUL": (b'{"\\u0000": 1}', r"\x00: is not an option"),
    "many": (b"{" + b",".join(b'"a%d": 1' % number for number in range(50_000)) + b"}", "and 49,990 more"),
    "large": (b"{}" + b" " * 1_048_575, "has 1,048,577 bytes, the limit is 1,048,576 (BATCH_MAX_SIDECAR_BYTES)"),
}


def test_an_invalid_sidecar_fails_only_its_own_file(system: System) -> None:
    for name, (sidecar, _) in WRONG_SIDECARS.items():
        system.store.write(f"{FOLDER}/{name}.options.json", sidecar)
        system.store.write(f"{FOLDER}/{name}", b"name\nAnn\n")
    system.store.write(f"{FOLDER}/with the default options", b"name\nAnn\n")

    batches = {batch.name: batch for batch in take_in(system, limit=100)}

    assert batches.pop("with the default options").awaits_run is not None
    assert batches.keys() == WRONG_SIDECARS.keys()
    for name, (_, said) in WRONG_SIDECARS.items():
        batch = system.ledger.get(batches[name].id)
        assert batch.reason is not None
        assert (batch.status, batch.reason.code) == ("failed", "invalid_options")
        assert said in batch.reason.message
        assert len(batch.reason.message) < 5_000
        assert upload_of(system, batch) == b"name\nAnn\n"
    assert system.store.list(keys.INBOX) == []


def test_a_sidecar_over_the_limit_is_not_even_read(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    fits, too_large = b'{"name": "Fits in"}', b'{"name": "Fits not"}'
    system = replace(system, settings=system.settings.model_copy(update={"max_sidecar_bytes": len(fits)}))
    for name, sidecar in (("a.csv", fits), ("b.csv", too_large)):
        system.store.write(f"{FOLDER}/{name}.options.json", sidecar)
        system.store.write(f"{FOLDER}/{name}", b"name\nAnn\n")
    read, seen = Store.read, []
    monkeypatch.setattr(Store, "read", lambda store, key: seen.append(key) or read(store, key))

    batches = take_in(system, limit=10)

    assert seen == [f"{FOLDER}/a.csv.options.json"]
    assert {batch.name: batch.status for batch in batches} == {"Fits in": "requested", "b.csv": "failed"}


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *failing: str) -> list[str]:
    """To copy these objects fails. Returns the keys that were tried, in their order."""
    copy, tried = Store.copy, []

    def fails(store: Store, source: str, target: str) -> None:
        tried.append(source)
        if source in failing:
            raise error
        copy(store, source, target)

    monkeypatch.setattr(Store, "copy", fails)
    return tried


def _refusing(monkeypatch: pytest.MonkeyPatch, *keys_refused: str) -> None:
    """Storage refuses to hand out these objects, as it does where a policy forbids it."""
    error = UnavailableError("storage", f"Storage refuses access to {keys_refused[0]}.")
    _failing(monkeypatch, error, *keys_refused)


def test_a_file_that_storage_refuses_does_not_block_others(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        system.store.write(f"{FOLDER}/{name}", b"name\nAnn\n")
    with monkeypatch.context() as patch:
        _refusing(patch, f"{FOLDER}/a.csv")

        assert sorted(batch.name for batch in take_in(system, limit=10)) == ["b.csv", "c.csv"]
        assert [found.key for found in system.store.list(keys.INBOX)] == [f"{FOLDER}/a.csv"]
        with pytest.raises(UnavailableError, match=r"refuses access to uploads/default/contact/merge/a\.csv"):
            take_in(system, limit=10)  # nothing else is there: it is said, not passed over

    assert [batch.name for batch in take_in(system, limit=10)] == ["a.csv"]


@pytest.mark.parametrize("is_away", [False, True], ids=["there", "away"])
def test_after_several_refused_files_intake_continues_if_storage_is_available(
    system: System, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    names = [f"{FOLDER}/{number}.csv" for number in range(2 * REFUSED_AT_FIRST)]
    for name in names:
        system.store.write(name, b"name\nAnn\n")
    tried = _failing(monkeypatch, UnavailableError("storage", "Storage refuses access to it."), *names[:-1])
    if is_away:
        monkeypatch.setattr(Store, "check", Store("s3://no-such-bucket").check)
        with pytest.raises(UnavailableError, match="no-such-bucket"):
            take_in(system, limit=10)
        assert tried == names[:REFUSED_AT_FIRST]
    else:
        assert [batch.source_key for batch in take_in(system, limit=10)] == names[-1:]


def test_an_unexpected_error_of_a_file_is_logged_and_does_not_block_others(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{FOLDER}/{number}.csv" for number in range(REFUSED_AT_FIRST + 2)]
    for name in names:
        system.store.write(name, b"name\nAnn\n")
    with monkeypatch.context() as patch:
        _failing(patch, ZeroDivisionError("nobody foresaw it"), *names[:-1])

        assert [batch.source_key for batch in take_in(system, limit=10)] == names[-1:]
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert [record.getMessage().split(" ")[0] for record in logged] == names[:-1]
        assert all(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in logged)
        assert [found.key for found in system.store.list(keys.INBOX)] == names[:-1]
        with pytest.raises(ZeroDivisionError):
            take_in(system, limit=10)  # nothing else is there: it is said, not passed over

    assert [batch.source_key for batch in take_in(system, limit=10)] == names[:-1]


@pytest.mark.parametrize("error", [UnavailableError("database", "It went away."), KeyboardInterrupt()], ids=type)
def test_an_error_that_concerns_all_files_ends_intake_at_once(
    system: System, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    names = [f"{FOLDER}/{number}.csv" for number in range(3)]
    for name in names:
        system.store.write(name, b"name\nAnn\n")
    tried = _failing(monkeypatch, error, names[1])

    with pytest.raises(type(error)):
        take_in(system, limit=10)
    assert tried == names[:2]


def test_files_that_wait_are_recorded_for_monitoring(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting() -> tuple[int, bool]:
        with borrowed(system.engine) as connection:
            found = read_figures(connection)
        return found.inbox_files, found.inbox_oldest_seconds > 0

    for name in ("a.csv", "b.csv", "c.csv", "c.csv.options.json"):
        system.store.write(f"{FOLDER}/{name}", b"name\nAnn\n")
    _refusing(monkeypatch, f"{FOLDER}/a.csv")

    assert len(take_in(system, limit=1)) == 1
    assert waiting() == (2, True)
    monkeypatch.undo()
    assert len(take_in(system, limit=10)) == 2
    assert waiting() == (0, False)


def test_the_sidecar_of_a_file_that_follows_at_once_is_kept(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits until a file has left the inbox may put the next one there, sidecar first."""

    def send(reject_limit: int) -> None:
        system.store.write(f"{FOLDER}/a.csv.options.json", f'{{"reject_limit": {reject_limit}}}'.encode())
        system.store.write(f"{FOLDER}/a.csv", b"name\nAnn\n")

    def delete(store: Store, *names: str) -> None:
        for name in names:
            if not sent and not store.exists(f"{FOLDER}/a.csv"):
                sent.append(True)
                send(2)
            really_delete(store, name)

    sent: list[bool] = []
    really_delete = Store.delete
    send(1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", delete)
        (first,) = take_in(system, limit=1)
    if not sent:
        send(2)
    (second,) = take_in(system, limit=1)

    assert [batch.options["reject_limit"] for batch in (first, second)] == ["1", "2"]
