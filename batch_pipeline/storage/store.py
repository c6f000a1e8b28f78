"""Object storage: one bucket and prefix, S3 protocol, by s3fs. Keys are relative to the prefix."""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batch_pipeline.errors import DiskFullError, NotFoundError, UnavailableError, is_disk_full
from batch_pipeline.settings import MIB

if TYPE_CHECKING:  # each takes a third of a second to import or more, and not every process needs them
    import pyarrow as pa
    import s3fs
    from botocore.loaders import Loader

BLOCK_BYTES = 8 * MIB
BLOCKS_SENT_AT_ONCE = 4  # of one upload: each takes its size of memory, twice
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60
ATTEMPTS = 4  # botocore's standard mode: exponential backoff, transient errors only


@cache
def s3_descriptions() -> "Loader":
    """botocore's descriptions of S3, for all clients of the process: without them one takes a tenth of the time."""
    from botocore.session import Session

    from batch_pipeline.storage.service_files import ServiceFiles

    loader: Loader = Session().get_component("data_loader")
    loader.file_loader = ServiceFiles()
    loader.load_service_model("s3", "service-2")
    loader.load_service_model("s3", "endpoint-rule-set-1")
    return loader


@dataclass(frozen=True)
class StoredObject:
    """An object as returned by a listing or a HEAD request.

    Attributes:
        key: relative to the store's prefix.
        size: bytes.
        modified_at: UTC, in the service's precision.
        etag: without quotes; '' if the service has none.
        version_id: None if the bucket is not versioned, and in listings, which never have it.
    """

    key: str
    size: int
    modified_at: datetime
    etag: str
    version_id: str | None

    @property
    def version(self) -> str:
        """Identifies the content: the version id, else ETag, time and size."""
        return self.version_id or f"{self.etag}@{self.modified_at.isoformat()}/{self.size}"


class Store:
    """The objects under one `s3://bucket/prefix`.

    Methods raise UnavailableError in an outage, NotFoundError (`object_not_found`) for a missing object, and
    DiskFullError if the local disk is full.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.bucket = parts.netloc
        self.prefix = parts.path.strip("/")

    @cached_property
    def _files(self) -> "s3fs.S3FileSystem":
        """The client. The first of a process takes a third of a second, and not every process needs storage."""
        import s3fs
        from aiobotocore.session import AioSession

        session = AioSession()  # of this store alone, as it keeps credentials
        session.register_component("data_loader", s3_descriptions())
        return s3fs.S3FileSystem(
            session=session,
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            # Listings must be fresh: others write to the inbox.
            use_listings_cache=False,
            skip_instance_cache=True,
            default_block_size=BLOCK_BYTES,
            config_kwargs={
                "signature_version": "s3v4",  # s3fs would sign v2
                "user_agent": "batch_pipeline",  # botocore makes its own anew for each request: a tenth of its time
                # Many S3 services don't support the newer checksums, or send the object's checksum with a range of it.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
                "read_timeout": READ_TIMEOUT_SECONDS,
                "retries": {"mode": "standard", "max_attempts": ATTEMPTS},
            },
        )

    def close(self) -> None:
        """Closes the connections. The next use opens new ones."""
        if "_files" in self.__dict__:
            from fsspec.asyn import sync

            files = self.__dict__.pop("_files")
            # s3fs's own `close_session` would close them in the event loop of the caller, where they were not opened.
            sync(files.loop, files.s3.__aexit__, None, None, None)

    def path(self, key: str) -> str:
        """The object's path for s3fs: bucket, prefix and key."""
        return "/".join(part for part in (self.bucket, self.prefix, key) if part)

    def uri(self, key: str) -> str:
        """The object's `s3://` address, for display."""
        return f"s3://{self.path(key)}"

    def check(self) -> None:
        """Raises UnavailableError unless the bucket can be listed."""
        folder = f"{self.prefix}/" if self.prefix else ""
        with self._translating(None):
            try:  # exists() would report an outage as a missing bucket
                self._files.call_s3("list_objects_v2", Bucket=self.bucket, Prefix=folder, Delimiter="/", MaxKeys=1)
            except FileNotFoundError as error:
                raise UnavailableError(
                    "storage", f"There is no bucket {self.bucket}: make it, or name another."
                ) from error

    def prepare(self) -> None:
        """Has the client sign a URL, as it does to write an object. The first time takes long. Sends nothing."""
        with self._translating(None):
            self._files.url(self.path("prepared"), client_method="put_object")

    def stat(self, key: str) -> StoredObject:
        """The object's size, time and version. Raises NotFoundError.

        Sends a HEAD request and a listing: only HEAD has the version id, and only the listing reliably has the time in
        full precision (HEAD has HTTP's whole seconds).
        """
        name = self.path(key).removeprefix(f"{self.bucket}/")
        with self._translating(key):
            head = self._files.call_s3("head_object", Bucket=self.bucket, Key=name)
            listed = self._files.call_s3("list_objects_v2", Bucket=self.bucket, Prefix=name)
            for found in listed.get("Contents", ()):
                if found["Key"] == name:
                    version_id = head.get("VersionId")
                    return self._object({**found, "name": self.path(key), "size": found["Size"]}, version_id)
            raise FileNotFoundError(name)  # deleted between the two requests

    def confirm(self, found: StoredObject) -> StoredObject | None:
        """The object with its version id if it has not changed since `found`; None if it changed or was deleted.

        Compares ETag, size, time to the second and, if `found` has it, the version id. With a service without ETags,
        use it only for objects at least 2 s old. Reads the object's first byte before: a server over a folder may cache
        a file's attributes until it opens the file (rclone, up to its --dir-cache-time).
        """
        name = self.path(found.key).removeprefix(f"{self.bucket}/")
        try:
            with self._translating(found.key):
                if found.size > 0:
                    self._files.cat_file(self.path(found.key), start=0, end=1)
                head = self._files.call_s3("head_object", Bucket=self.bucket, Key=name)
        except NotFoundError:
            return None
        now = self._object({**head, "name": self.path(found.key), "size": head["ContentLength"]}, head.get("VersionId"))
        # HEAD has whole seconds. rclone's is one second early if the time is less than 1 ms after a full second.
        earlier_by = found.modified_at.replace(microsecond=0) - now.modified_at.replace(microsecond=0)
        is_same = (
            (now.etag, now.size) == (found.etag, found.size)
            and earlier_by in (timedelta(0), timedelta(seconds=1))
            and found.version_id in (None, now.version_id)
        )
        return replace(found, version_id=now.version_id) if is_same else None

    def exists(self, key: str) -> bool:
        """Whether the object exists."""
        try:
            self.stat(key)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> list[StoredObject]:
        """All objects under the key prefix (a folder), ordered by key, without version ids (see `stat`)."""
        with self._translating(prefix):
            found = self._files.find(self.path(prefix), detail=True, refresh=True, withdirs=False)
        objects = [self._object(info) for info in found.values() if info["type"] == "file"]
        return sorted(objects, key=lambda item: item.key)

    def folders(self, prefix: str, *, at_once: int = 1000) -> Iterator[str]:
        """Names of a folder's direct subfolders, in the byte order of `name/`. Fetches pages of `at_once` lazily."""
        name = f"{self.path(prefix)}/".removeprefix(f"{self.bucket}/")
        further: dict[str, str] = {}
        while True:
            with self._translating(prefix):
                page = self._files.call_s3(
                    "list_objects_v2", Bucket=self.bucket, Prefix=name, Delimiter="/", MaxKeys=at_once, **further
                )
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"].removeprefix(name).removesuffix("/")
            if not page.get("IsTruncated"):
                return
            further = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, key: str) -> bytes:
        """The content of a small object."""
        with self._translating(key):
            # With parallel reads, s3fs would first request the size.
            return bytes(self._files.cat_file(self.path(key), max_concurrency=1))

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's content in blocks of at most `BLOCK_BYTES`, read lazily."""
        with self._translating(key), self._files.open(self.path(key), "rb", cache_type="none") as source:
            while block := source.read(BLOCK_BYTES):
                yield block

    def write(self, key: str, data: bytes) -> None:
        """Writes a small object."""
        with self._translating(key):
            self._files.pipe_file(self.path(key), data)

    def upload(self, source: Path, key: str) -> None:
        """Uploads a file."""
        with self._translating(key):
            self._files.put_file(
                str(source), self.path(key), chunksize=BLOCK_BYTES, max_concurrency=BLOCKS_SENT_AT_ONCE
            )

    def begin_upload(self, source: Path, key: str) -> "BackgroundUpload":
        """As `upload`, but does not wait for the end."""
        with self._translating(key):
            # fsspec's names for coroutines begin with an underscore.
            sending = self._files._put_file(
                str(source), self.path(key), chunksize=BLOCK_BYTES, max_concurrency=BLOCKS_SENT_AT_ONCE
            )
            ended = asyncio.run_coroutine_threadsafe(sending, self._files.loop)
        return BackgroundUpload(ended, partial(self._translating, key))

    def download(self, key: str, target: Path, *, check_size: Callable[[int], None] | None = None) -> str:
        """Streams the object to a file; returns the SHA-256 of its content in hex.

        Calls `check_size` with the size in bytes before it reads more than a block; `check_size` may raise. An object
        of less than `BLOCK_BYTES` takes one request.
        """
        digest = hashlib.sha256()
        with self._translating(key), ExitStack() as opened:
            block = self._first_block(key)
            size, whole = len(block), None
            if size in (0, BLOCK_BYTES):
                # Read anew from its start, because this file's reads fail if the object changes meanwhile.
                whole = opened.enter_context(self._files.open(self.path(key), "rb", cache_type="none"))
                size = whole.size
            if check_size is not None:
                check_size(size)
            file = opened.enter_context(target.open("wb"))
            blocks = iter((block,)) if whole is None else _read_ahead(partial(whole.read, BLOCK_BYTES))
            for block in blocks:
                digest.update(block)
                file.write(block)
        return digest.hexdigest()

    def _first_block(self, key: str) -> bytes:
        try:
            return bytes(self._files.cat_file(self.path(key), start=0, end=BLOCK_BYTES))
        except OSError as error:
            if error.errno == errno.EINVAL:  # an empty object has no range
                return b""
            raise

    def copy(self, source: str, target: str) -> None:
        """Copies an object within the store, on the server."""
        with self._translating(source):
            self._files.cp_file(self.path(source), self.path(target))  # `copy` would expand * ? [ as patterns

    def delete(self, *keys: str) -> None:
        """Deletes objects; ignores missing ones."""
        for key in keys:
            try:
                with self._translating(key):
                    self._files.rm_file(self.path(key))
            except NotFoundError:
                continue

    def write_table(self, key: str, table: "pa.Table") -> None:
        """Writes an Arrow table as a Parquet object."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="lz4", use_dictionary=False, write_statistics=False)
        self.write(key, buffer.getvalue().to_pybytes())

    def read_table(self, key: str) -> "pa.Table":
        """Reads a Parquet object that `write_table` wrote."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(pa.BufferReader(self.read(key)))

    def _object(self, info: dict[str, Any], version_id: str | None = None) -> StoredObject:
        key = str(info["name"]).removeprefix(self.path("")).lstrip("/")
        modified = info["LastModified"].astimezone(UTC)  # s3fs returns it in a local zone, which may change
        if version_id in (None, "null"):  # "null": written while versioning was suspended
            version_id = None
        etag = str(info.get("ETag", "")).strip('"')  # rclone quotes it only in headers
        return StoredObject(key, int(info["size"]), modified, etag, version_id)

    @contextmanager
    def _translating(self, key: str | None) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except FileNotFoundError as error:
            raise NotFoundError("object_not_found", f"There is no object {self.uri(key or '')}.") from error
        except PermissionError as error:
            raise UnavailableError(
                "storage",
                f"Storage refuses access to {self.uri(key or '')}: check the AWS_ variables. ({_error_text(error)})",
            ) from error
        except (BotoCoreError, ClientError, OSError) as error:
            if is_disk_full(error):
                raise DiskFullError from error
            raise UnavailableError("storage", f"Storage can't be reached: {_error_text(error)}") from error


class BackgroundUpload:
    """An upload that the store's own thread makes."""

    def __init__(self, ended: "Future[None]", translating: Callable[[], AbstractContextManager[None]]) -> None:
        self._ended = ended
        self._translating = translating

    def wait(self) -> None:
        """Waits for the end. Raises as `Store.upload` does."""
        with self._translating():
            self._ended.result()

    def cancel(self) -> None:
        """Stops it, unless it has ended."""
        self._ended.cancel()


def _read_ahead(read: Callable[[], bytes]) -> Iterator[bytes]:
    """The blocks that `read` returns, until it returns none. A thread reads the next one while the caller has one."""
    with ThreadPoolExecutor(1) as reading:
        ahead = reading.submit(read)
        while block := ahead.result():
            ahead = reading.submit(read)
            yield block


def _error_text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
