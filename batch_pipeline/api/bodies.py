"""Reading a request's body: never more than a limit of it, and large ones not in memory."""

import hashlib
import mmap
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.message import Message

from fastapi import Request

from batch_pipeline.api.envelope import MediaTypeError
from batch_pipeline.errors import TooLargeError
from batch_pipeline.settings import MIB


@dataclass(frozen=True)
class Body:
    """A body that has been read; the view is good within the context that read it."""

    view: memoryview
    sha256: bytes


@asynccontextmanager
async def read_body(request: Request, *, limit_bytes: int, limit_name: str) -> AsyncIterator[Body]:
    """The request's body. Raises TooLargeError as soon as it is known to be larger than the limit."""
    too_large = TooLargeError(f"The body is larger than {limit_bytes:,} bytes ({limit_name}).")
    announced = request.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced[:20]) > limit_bytes:
        raise too_large
    digest = hashlib.sha256()
    size = 0
    with tempfile.SpooledTemporaryFile(max_size=MIB) as file:
        async for block in request.stream():
            size += len(block)
            if size > limit_bytes:
                raise too_large
            digest.update(block)
            file.write(block)
        if size <= MIB:
            file.seek(0)
            yield Body(memoryview(file.read()), digest.digest())
            return
        file.flush()
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield Body(view, digest.digest())


def require_json(request: Request) -> None:
    """Raises MediaTypeError unless the body is said to be JSON, in UTF-8."""
    header = Message()
    header["Content-Type"] = request.headers.get("Content-Type", "").replace("\n", " ").replace("\r", " ")
    kind = header.get_content_type() if request.headers.get("Content-Type") else ""
    charset = str(header.get_param("charset") or "utf-8").lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json or charset not in ("utf-8", "utf8", "us-ascii"):
        raise MediaTypeError("unsupported_media_type", "Send the body as Content-Type: application/json, in UTF-8.")
