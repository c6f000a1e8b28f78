"""The store on the real S3 server: its methods and their errors."""

import asyncio
import gc
import hashlib
import itertools
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from waiting import eventually

from batch_pipeline.errors import DiskFullError, NotFoundError, UnavailableError
from batch_pipeline.local.system import LocalServers
from batch_pipeline.storage.store import BLOCK_BYTES, Store

ODD_NAMES = [
    "a b.csv",
    "Kunden Übersicht.csv",
    "顧客🚚.csv",
    "a+b.csv",
    "50%.csv",
    "a%20b.csv",
    "a&b=c.csv",
    "a#b.csv",
    "report [1].csv",
    "what?.csv",
    "all*.csv",
    "it's.csv",
    '"quoted".csv',
    "a;b,c.csv",
    "{x}~$@!.csv",
    "deep/er/folder.csv",
]


@pytest.fixture
def store(storage_url: str) -> Store:
    return Store(storage_url)


def test_a_written_object_is_read_and_described(store: Store) -> None:
    store.write("folder/a.csv", b"name\r\nAnn\r\n")

    found = store.stat("folder/a.csv")
    assert store.read("folder/a.csv") == b"name\r\nAnn\r\n"
    assert (found.key, found.size) == ("folder/a.csv", 11)
    assert found.modified_at.tzinfo is not None
    assert store.exists("folder/a.csv")
    assert not store.exists("folder/b.csv")


@pytest.mark.parametrize(
    "data", [b"", b"\x00\xff" * 10, b"x" * (2 * BLOCK_BYTES + 17)], ids=["empty", "bytes", "large"]
)
def test_files_go_up_and_down_byte_for_byte(store: Store, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "source").write_bytes(data)

    store.upload(tmp_path / "source", "up")
    checksum = store.download("up", tmp_path / "target")

    assert (tmp_path / "target").read_bytes() == data
    assert checksum == hashlib.sha256(data).hexdigest()
    assert store.stat("up").size == len(data)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_may_hold_any_character(store: Store, name: str) -> None:
    key = f"uploads/{name}"
    store.write(key, name.encode())

    assert [found.key for found in store.list("uploads")] == [key]
    assert store.stat(key).key == key
    store.copy(key, f"copies/{name}")
    assert store.read(f"copies/{name}") == name.encode()
    store.delete(key)
    assert store.list("uploads") == []


def test_a_copy_takes_the_name_literally(store: Store) -> None:
    store.write("in/a1.csv", b"other")
    store.write("in/a[1].csv", b"meant")
    store.write("in/a*.csv", b"star")

    store.copy("in/a[1].csv", "out/one")
    store.copy("in/a*.csv", "out/two")

    assert [found.key for found in store.list("out")] == ["out/one", "out/two"]
    assert store.read("out/one") == b"meant"
    assert store.read("out/two") == b"star"


def test_a_copy_leaves_the_source_and_replaces_the_target(store: Store) -> None:
    store.write("a", b"new")
    store.write("b", b"old and longer")

    store.copy("a", "b")

    assert store.read("a") == store.read("b") == b"new"


def test_a_listing_shows_the_objects_of_a_folder_ordered_by_key(store: Store) -> None:
    for key in ("in/b", "in/a/c", "in/a", "inside/x", "other"):
        if key != "in/a":  # a file and a folder of one name can't both be in a plain folder
            store.write(key, b"x")

    assert [found.key for found in store.list("in")] == ["in/a/c", "in/b"]
    assert store.list("nothing") == []


def test_listings_and_look_ups_are_fresh(store: Store, storage_url: str) -> None:
    other = Store(storage_url)
    assert store.list("in") == []
    assert not store.exists("in/a")

    other.write("in/a", b"1")

    assert [found.size for found in store.list("in")] == [1]
    other.write("in/a", b"22")
    assert store.stat("in/a").size == 2
    assert [found.size for found in store.list("in")] == [2]
    other.delete("in/a")
    assert not store.exists("in/a")


def test_the_version_stays_while_the_object_does_and_changes_with_it(store: Store) -> None:
    store.write("a", b"one")
    version = store.stat("a").version
    assert store.stat("a").version == version

    store.write("a", b"other")

    assert store.stat("a").version != version


def test_a_listing_and_a_look_up_describe_an_object_alike(store: Store) -> None:
    store.write("in/a", b"one")
    store.write("in/a.csv", b"two")

    assert store.list("in") == [store.stat("in/a"), store.stat("in/a.csv")]


def test_the_version_of_an_object_uses_utc(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("a", b"one")
    here = store.stat("a").version
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert store.stat("a").version == here
        assert [found.version for found in store.list("")] == [here]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_folder_is_not_an_object(store: Store) -> None:
    store.write("in/a", b"one")

    assert not store.exists("in")
    with pytest.raises(NotFoundError):
        store.stat("in")


def test_delete_removes_all_objects_and_ignores_missing_ones(store: Store) -> None:
    for key in ("a", "b", "keep"):
        store.write(key, b"x")

    store.delete("a", "never was", "b")
    store.delete("a")

    assert [found.key for found in store.list("")] == ["keep"]


def test_stores_with_different_prefixes_are_separate(environment: dict[str, str]) -> None:
    name = secrets.token_hex(6)
    one, other = (Store(f"{environment['BATCH_STORAGE_URL']}/{name}/{part}") for part in ("x", "xy"))
    one.write("a", b"1")

    assert other.list("") == []
    assert [found.key for found in one.list("")] == ["a"]
    assert one.uri("a").endswith(f"/{name}/x/a")


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 5])
def test_objects_of_about_a_block_and_more_come_back_whole(store: Store, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)

    store.write("large", data)

    assert store.read("large") == data
    assert store.download("large", tmp_path / "large") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "large").read_bytes() == data


def test_tables_come_back_with_their_types_and_nulls(store: Store) -> None:
    table = pa.table(
        {
            "row": pa.array([1, 2], pa.int64()),
            "=odd name\n": pa.array(["a\x00b", None]),
            "?kind": pa.array([None, 3], pa.uint8()),
            "=": pa.array(["", "🚚"]),
        }
    )

    store.write_table("t.parquet", table)

    assert store.read_table("t.parquet").equals(table)


# ---- where it can't ---------------------------------------------------------------------------------------------


def test_a_missing_object_is_named(store: Store, tmp_path: Path) -> None:
    for act in (
        lambda: store.read("gone"),
        lambda: store.stat("gone"),
        lambda: store.copy("gone", "b"),
        lambda: store.download("gone", tmp_path / "target"),
        lambda: store.read_table("gone"),
    ):
        with pytest.raises(NotFoundError) as caught:
            act()
        assert caught.value.code == "object_not_found"
        assert store.uri("gone") in caught.value.message


def test_a_reachable_bucket_passes_the_check(store: Store) -> None:
    store.check()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nothing listens on, and nothing can come to listen on meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def test_an_endpoint_that_nothing_listens_on_is_an_outage(
    storage_url: str, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setattr("batch_pipeline.storage.store.ATTEMPTS", 1)  # more are spread over ten seconds
    store = Store(storage_url)

    # One is enough: s3fs has attempts of its own, which take two seconds.
    _is_an_outage(store.check)


def test_wrong_keys_are_an_outage_and_the_secret_is_not_shown(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
    store = Store(storage_url)

    for act in (store.check, lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.list("")):
        _is_an_outage(act)


def test_a_bucket_that_does_not_exist_is_named(environment: dict[str, str]) -> None:
    bucket = f"missing-{secrets.token_hex(6)}"

    message = _is_an_outage(Store(f"s3://{bucket}/prefix").check)

    assert bucket in message
    assert environment["AWS_ACCESS_KEY_ID"] not in message


def _is_an_outage(act: Callable[[], object]) -> str:
    with pytest.raises(UnavailableError) as caught:
        act()
    assert caught.value.code == "storage_unavailable"
    assert "\n" not in caught.value.message
    assert "wrong-secret-value" not in caught.value.message
    return caught.value.message


def test_an_object_is_confirmed_until_it_changes(store: Store, servers: LocalServers) -> None:
    """Also where its file is changed past the server, which remembers for a second how it was."""
    folder = servers.storage_folder / store.path("inbox").removeprefix(f"{store.bucket}/")
    folder.mkdir(parents=True)
    times = {}
    for name, part_of_second in itertools.product(["people.csv", "report [1] 50%.csv"], [0.0, 0.0004, 0.5, 0.9996]):
        file = folder / f"{part_of_second} {name}"
        file.write_bytes(b"name\nAnn\n")
        times[file] = int(time.time()) - 60 + part_of_second
        os.utime(file, (times[file], times[file]))
    listed = eventually(lambda: store.list("inbox/"))
    assert sorted(found.key for found in listed) == sorted(f"inbox/{file.name}" for file in times)
    for found in listed:
        file = folder / found.key.removeprefix("inbox/")
        then = times[file]
        confirmed = store.confirm(found)
        assert confirmed == found
        assert confirmed is not None
        assert store.confirm(confirmed) == found

        os.utime(file, (then + 2, then + 2))
        assert store.confirm(found) is None
        os.utime(file, (then, then))
        assert store.confirm(found) == found
        file.write_bytes(b"name\nAnne\n")
        assert store.confirm(found) is None
        store.delete(found.key)
        assert store.confirm(found) is None


def test_folders_come_one_level_deep_in_order_page_by_page(store: Store) -> None:
    names = ["b", "Z", "a b", "a", "a-", "ä", "a1"]
    for name in names:
        store.write(f"shelf/{name}/deep/file", b"")
        store.write(f"shelf/{name}/other", b"")
    store.write("shelf/file", b"")
    store.write("shelf2/elsewhere/file", b"")

    for at_once in (1, 3, 1000):
        assert list(store.folders("shelf", at_once=at_once)) == sorted(names, key=lambda name: f"{name}/".encode())
    folders = store.folders("shelf", at_once=1)
    assert next(folders) == "Z"
    store.delete("shelf/Z/deep/file", "shelf/Z/other")  # one that goes meanwhile hides none of the rest
    assert list(folders) == sorted(set(names) - {"Z"}, key=lambda name: f"{name}/".encode())
    assert list(store.folders("nothing")) == []


def test_a_full_local_disk_is_not_an_outage_of_storage(store: Store) -> None:
    store.write("some", b"x" * 100_000)
    with pytest.raises(DiskFullError, match="disk of the machine") as caught:
        store.download("some", Path("/dev/full"))
    assert caught.value.code == "disk_full"


def test_a_store_closed_in_an_event_loop_leaves_it_no_task(storage_url: str) -> None:
    async def use() -> None:
        store = Store(storage_url)
        store.check()
        store.close()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})  # raises their errors

    gc.collect()  # s3fs closes the clients of other tests in whatever loop runs when they are collected
    asyncio.run(use())
