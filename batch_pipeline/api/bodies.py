"""Reads a request's body: no more of it than a limit, and no more than 1 MiB of it into memory."""

import hashlib
from dataclasses import dataclass
from email.message import Message
from tempfile import SpooledTemporaryFile
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from batch_pipeline.api.envelope import MediaTypeError
from batch_pipeline.errors import TooLargeError
from batch_pipeline.service.context import Service
from batch_pipeline.service.payload import EVENT_LOOP_BYTES, MEMORY_BYTES, view_of
from batch_pipeline.service.request import check_members, read_members
from batch_pipeline.settings import MIB

_SMALL_BODY_BYTES = 10_000

_Asked = TypeVar("_Asked", bound=BaseModel)


@dataclass(frozen=True)
class Body:
    """A request's body, read to its end."""

    view: memoryview
    sha256: bytes


async def read_body(request: Request, service: Service, *, limit_bytes: int, limit_name: str) -> Body:
    """Reads the body. Raises TooLargeError as soon as it is known to be larger than the limit.

    Threads hash and write a body that is not small, so that the event loop only collects blocks.
    """
    too_large = TooLargeError(f"The body is larger than {limit_bytes:,} bytes ({limit_name}).")
    announced = request.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced[:20]) > limit_bytes:
        raise too_large
    digest = hashlib.sha256()
    size = 0
    with SpooledTemporaryFile(max_size=MEMORY_BYTES) as file:

        def add(block: bytearray) -> None:
            digest.update(block)
            file.write(block)

        def end(block: bytearray) -> Body:
            add(block)
            return Body(view_of(file), digest.digest())

        collected = bytearray()
        async for block in request.stream():
            size += len(block)
            if size > limit_bytes:
                raise too_large
            collected += block
            if len(collected) >= MIB:
                await service.in_thread(add, collected)
                collected = bytearray()
        return end(collected) if size <= EVENT_LOOP_BYTES else await service.in_thread(end, collected)


def require_json(request: Request) -> None:
    """Raises MediaTypeError unless the request declares its body as JSON in UTF-8."""
    header = Message()
    header["Content-Type"] = request.headers.get("Content-Type", "").replace("\n", " ").replace("\r", " ")
    kind = header.get_content_type() if request.headers.get("Content-Type") else ""
    charset = str(header.get_param("charset") or "utf-8").lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json or charset not in ("utf-8", "utf8", "us-ascii"):
        raise MediaTypeError("unsupported_media_type", "Send the body as Content-Type: application/json, in UTF-8.")


async def read_optional_body(request: Request, service: Service, model: type[_Asked]) -> _Asked:
    """The body of a call that needs little, checked; the model's defaults without a body.

    Raises TooLargeError, MediaTypeError, MalformedError and WrongValuesError.
    """
    body = await _read_small_body(request, service)
    return _checked(request, body, model) if body.view else model()


async def read_required_body(request: Request, service: Service, model: type[_Asked]) -> _Asked:
    """As `read_optional_body`, for a call that needs its body."""
    return _checked(request, await _read_small_body(request, service), model)


async def _read_small_body(request: Request, service: Service) -> Body:
    return await read_body(request, service, limit_bytes=_SMALL_BODY_BYTES, limit_name="this call needs little")


def _checked(request: Request, body: Body, model: type[_Asked]) -> _Asked:
    require_json(request)
    return check_members(model, read_members(body.view))
