"""Intake: each object version in the inbox becomes exactly one batch, and is gone from the inbox then."""

import pytest

from batch_pipeline.batches.model import Batch
from batch_pipeline.errors import UnavailableError
from batch_pipeline.storage import keys
from batch_pipeline.storage.inbox import REFUSED_IN_A_ROW, take_in
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
    system.store.write(f"{FOLDER}/a.csv.options.json", b'{"duplicate_handling": "use_last"}')
    system.store.write(f"{FOLDER}/a.csv", b"name\nAnn\n")
    system.store.write(f"{FOLDER}/b.csv.part", b"name\n")

    (batch,) = take_in(system, limit=10)

    assert batch.options["duplicate_handling"] == "use_last"
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
def test_a_folder_that_names_nothing_known_gives_a_failed_batch_that_says_so(system: System, folder: str) -> None:
    system.store.write(f"{folder}/a.csv", b"name\nAnn\n")

    (batch,) = take_in(system, limit=10)

    assert batch.status == "failed"
    assert batch.reason is not None
    assert batch.reason.code == "unknown_folder"
    assert system.store.list(keys.INBOX) == []
    assert upload_of(system, batch) == b"name\nAnn\n"


def _refusing(monkeypatch: pytest.MonkeyPatch, *keys_refused: str) -> None:
    """Storage refuses to hand out these objects, as it does where a policy forbids it."""
    copy = Store.copy

    def refuses(store: Store, source: str, target: str) -> None:
        if source in keys_refused:
            raise UnavailableError("storage", f"Storage refuses access to {source}.")
        copy(store, source, target)

    monkeypatch.setattr(Store, "copy", refuses)


def test_a_file_that_storage_refuses_holds_up_no_other(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        system.store.write(f"{FOLDER}/{name}", b"name\nAnn\n")
    with monkeypatch.context() as patch:
        _refusing(patch, f"{FOLDER}/a.csv")

        assert sorted(batch.name for batch in take_in(system, limit=10)) == ["b.csv", "c.csv"]
        assert [found.key for found in system.store.list(keys.INBOX)] == [f"{FOLDER}/a.csv"]
        with pytest.raises(UnavailableError, match=r"refuses access to uploads/default/contact/merge/a\.csv"):
            take_in(system, limit=10)  # nothing else is there: it is said, not passed over

    assert [batch.name for batch in take_in(system, limit=10)] == ["a.csv"]


def test_where_storage_refuses_the_first_few_files_the_others_are_not_tried(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{FOLDER}/{number}.csv" for number in range(REFUSED_IN_A_ROW + 1)]
    for name in names:
        system.store.write(name, b"name\nAnn\n")
    _refusing(monkeypatch, *names[:-1])

    with pytest.raises(UnavailableError):
        take_in(system, limit=10)
    assert [found.key for found in system.store.list(keys.INBOX)] == names
