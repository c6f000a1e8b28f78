"""The embedded S3 server serves a plain folder as S3 clients expect, and keeps its key to itself."""

import http.client
import shutil
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import s3fs
from waiting import eventually

from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.local.s3 import HOST, REGION, EmbeddedS3

PATIENCE_SECONDS = 120.0  # for what comes at once on a machine that isn't overloaded


@pytest.fixture
def s3(data_dir: Path) -> Iterator[EmbeddedS3]:
    server = EmbeddedS3(data_dir / "s3")
    yield server
    server.stop()


def client(server: EmbeddedS3) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=server.keys.access_key_id,
        secret=server.keys.secret_access_key,
        endpoint_url=server.endpoint,
        client_kwargs={"region_name": REGION},
        config_kwargs={"signature_version": "s3v4"},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def send(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 -- our own server
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 - an http URL of our own server
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_presigned_put_and_get_carry_the_bytes_and_a_changed_url_is_refused(s3: EmbeddedS3) -> None:
    s3.start("batch")
    files = client(s3)
    put, get = (
        files.sign("batch/requested/x/upload", expiration=60, client_method=method)
        for method in ("put_object", "get_object")
    )
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in put
    assert send("PUT", put, b"a,b\n1,2\n")[0] == http.client.OK
    assert send("GET", get) == (http.client.OK, b"a,b\n1,2\n")
    assert send("GET", get.replace("requested/x", "requested/y"))[0] == http.client.FORBIDDEN
    assert (s3.folder / "batch/requested/x/upload").read_bytes() == b"a,b\n1,2\n"


def test_a_call_without_the_key_is_refused(s3: EmbeddedS3) -> None:
    s3.start("batch")
    (s3.folder / "batch" / "names.csv").write_text("hidden")
    for path in ("batch/names.csv", "batch", ""):
        status, body = send("GET", f"{s3.endpoint}/{path}")
        # rclone answers 400 to a call without a signature, 403 to one with a wrong signature.
        assert status == http.client.BAD_REQUEST
        assert b"hidden" not in body
        assert b"names" not in body
    assert send("PUT", f"{s3.endpoint}/batch/new.csv", b"x")[0] == http.client.BAD_REQUEST
    assert not (s3.folder / "batch" / "new.csv").exists()


def test_a_file_copied_into_the_folder_is_listed_and_read_within_seconds_also_when_it_changes(
    s3: EmbeddedS3, tmp_path: Path
) -> None:
    s3.start("batch")
    files = client(s3)
    assert files.find("batch/uploads") == []
    inbox = s3.folder / "batch" / "uploads"
    for content in ("first", "second, and longer"):
        source = tmp_path / "source.csv"
        source.write_text(content)
        inbox.mkdir(exist_ok=True)
        shutil.copy(source, inbox / "contacts.csv")
        size = len(content)
        # The server looks at a folder anew after a second.
        eventually(lambda size=size: _lists(files, "batch/uploads/contacts.csv", size))
        assert files.cat_file("batch/uploads/contacts.csv") == content.encode()


def _lists(files: s3fs.S3FileSystem, path: str, size: int) -> bool:
    return [(found, info["size"]) for found, info in files.find(path.rsplit("/", 1)[0], detail=True).items()] == [
        (path, size)
    ]


def test_the_bucket_stays_when_its_last_object_goes(s3: EmbeddedS3) -> None:
    s3.start("batch")
    files = client(s3)
    files.pipe_file("batch/uploads/default/a.csv", b"x")
    files.rm_file("batch/uploads/default/a.csv")
    assert files.find("batch") == []
    assert (s3.folder / "batch").is_dir()
    files.pipe_file("batch/uploads/default/b.csv", b"y")
    assert files.find("batch") == ["batch/uploads/default/b.csv"]


def test_the_key_is_kept_between_starts_and_only_its_owner_can_read_it(s3: EmbeddedS3, data_dir: Path) -> None:
    s3.start("batch")
    assert s3.process is not None
    keys = s3.keys
    assert stat.S_IMODE((data_dir / "s3.keys.json").stat().st_mode) == 0o600
    assert not any(
        keys.secret_access_key in part or keys.access_key_id in part
        for part in psutil.Process(s3.process.pid).cmdline()
    )
    assert keys.secret_access_key not in repr(keys)
    assert keys.secret_access_key not in s3.log.read_text()
    s3.stop()
    assert EmbeddedS3(data_dir / "s3").keys == keys


def test_a_port_in_use_is_reported_in_one_line_with_the_flag(data_dir: Path) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingError, match=rf"^Port {port} .*--s3-port$"):
            EmbeddedS3(data_dir / "s3", port).start("batch")


def test_the_port_asked_for_is_free_again_after_a_stop(data_dir: Path, s3: EmbeddedS3) -> None:
    s3.start("batch")
    port = s3.port
    s3.stop()
    again = EmbeddedS3(data_dir / "s3", port)
    try:
        assert again.start("batch") == f"http://{HOST}:{port}"
    finally:
        again.stop()


def test_a_second_server_of_one_folder_is_refused(s3: EmbeddedS3) -> None:
    s3.start("batch")
    with pytest.raises(UnavailableError, match=r"another process serves \S+ by S3"):
        EmbeddedS3(s3.folder).start("batch")


def test_a_killed_server_leaves_room_for_the_next(s3: EmbeddedS3, processes_of: Callable[[Path], list[str]]) -> None:
    s3.start("batch")
    assert s3.process is not None
    (s3.folder / "batch" / "kept.csv").write_text("kept")
    s3.process.kill()
    s3.process.wait()
    s3.stop()
    s3.start("batch")
    assert client(s3).cat_file("batch/kept.csv") == b"kept"
    s3.stop()
    assert processes_of(s3.folder) == []
