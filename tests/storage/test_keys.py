"""Where things lie in the bucket."""

import pytest

from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.storage import keys

ID = new_batch_id()


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("contacts.csv", ".csv"),
        ("contacts.CSV", ".csv"),
        ("contacts.csv.gz", ".csv.gz"),
        ("contacts.JSON.ZST", ".json.zst"),
        ("a.b.csv", ".csv"),
        ("v1.2.csv.gz", ".csv.gz"),
        ("archive.gz", ".gz"),
        ("contacts", ""),
        (".csv", ""),
        ("contacts.", ""),
        ("contacts.c s v", ""),
        ("contacts.c/s", ""),
        ("folder.csv/contacts", ""),
        ("contacts.übel", ""),
        ("contacts." + "x" * 16, ""),
        ("contacts." + "x" * 15, "." + "x" * 15),
        ("contacts.x%.gz", ".gz"),
        ("", ""),
    ],
)
def test_a_plain_extension_is_kept(name: str, extension: str) -> None:
    assert keys.extension(name) == extension


def test_a_saved_original_is_an_artifact_and_an_unsaved_one_a_work_file() -> None:
    assert keys.upload(ID, "Contacts.CSV.gz", saved=True) == f"batches/{ID}/upload.csv.gz"
    assert keys.upload(ID, "Contacts.CSV.gz", saved=False) == f"batches/{ID}/work/upload.csv.gz"


def test_artifacts_have_the_keys_of_the_specification() -> None:
    assert keys.errors_csv(ID) == f"batches/{ID}/errors.csv"
    assert keys.errors_json(ID) == f"batches/{ID}/errors.json"
    assert keys.result_json(ID) == f"batches/{ID}/result.json"
    assert keys.work_folder(ID) == f"batches/{ID}/work"


def test_parsed_chunks_are_ordered_work_files() -> None:
    chunks = [keys.parsed_chunk(ID, number) for number in (1, 2, 10, 999_999)]

    assert chunks == sorted(chunks)
    assert len({*chunks, keys.equal_rows(ID)}) == 5
    assert all(key.startswith(f"{keys.work_folder(ID)}/") for key in (*chunks, keys.equal_rows(ID)))


@pytest.mark.parametrize(
    ("key", "is_file"),
    [
        ("uploads/default/contact/merge/a.csv", True),
        ("uploads/default/contact/merge/no extension", True),
        ("uploads/default/contact/merge/options.json", True),
        ("uploads/default/contact/merge/a.csv.options.json", False),
        ("uploads/default/contact/merge/.options.json", False),
        ("uploads/default/contact/merge/.hidden.csv", False),
        ("uploads/default/contact/merge/a.csv.tmp", False),
        ("uploads/default/contact/merge/a.csv.part", False),
        ("uploads/default/contact/merge/tmp", True),
        ("uploads/default/contact/merge/", False),
        ("uploads/default/contact/.merge/a.csv", True),
        ("", False),
    ],
)
def test_sidecars_and_hidden_or_unfinished_files_are_not_payloads(key: str, is_file: bool) -> None:
    assert keys.is_batch_file(key) is is_file
