"""A request to create a batch: read from its JSON text, every value checked, the items left as they were written."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from batch_pipeline.batches.model import Mode, UploadAction
from batch_pipeline.batches.options import OPTION_NAMES, BatchOptions
from batch_pipeline.errors import BatchError, RefusedError, TooLargeError, WrongValuesError
from batch_pipeline.records.registry import RESOURCES, check_action
from batch_pipeline.service.payload import blocks, without_escapes
from batch_pipeline.settings import MIB

# Bounds memory: each entry of a member can be wrong, and each error is an object with its own text.
MOST_OPTION_BYTES = MIB
_MOST_MEMBERS = MOST_OPTION_BYTES // len('"":0,')
_MOST_ERRORS = 100
_NAME_CHARACTERS = 100

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_Model = TypeVar("_Model", bound=BaseModel)


class MalformedError(BatchError):
    """The body is not JSON."""


def check_resource(name: str) -> str:
    """The name of a known resource. Raises ValueError."""
    if name not in RESOURCES:
        raise ValueError(f"there is no {name[:100]!r}; known are {', '.join(RESOURCES)}")
    return name


class BatchRequest(BatchOptions):
    """The members of a request to create a batch, apart from its items."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    resource: Annotated[str, AfterValidator(check_resource)] = Field(
        description="What the items are", json_schema_extra={"enum": list(RESOURCES)}
    )
    action: UploadAction = Field(description="What to do with them; which are available depends on the resource")
    mode: Mode = Field(
        Mode.mixed,
        description="`sync`: the answer is the final batch. `mixed`: the answer comes once the items are validated; "
        "processing continues",
    )

    @field_validator("timeout_seconds", mode="before")
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON knows no difference

    def options(self) -> BatchOptions:
        """The options alone."""
        return BatchOptions(**{name: getattr(self, name) for name in OPTION_NAMES})


class _Name:
    """A member's name. No two are equal, so that the decoder keeps every member of an object."""

    def __init__(self, text: str) -> None:
        self.text = text


def read_members(body: memoryview) -> dict[str, memoryview]:
    """The members of the JSON object, each value as its JSON text.

    The decoder checks the whole text but makes no value of it: that of a large `data` would take many times its size.

    Raises MalformedError; WrongValuesError where a name occurs more than once in the body or in an object that is the
    value of an option; TooLargeError where the members beside `data` are larger than MOST_OPTION_BYTES.
    """
    _check_encoding(body)
    found = _decode_members(body)
    if sum(len(name) + len(raw) for name, raw in found if name != "data") > MOST_OPTION_BYTES:
        raise _too_many_options()
    repeated = _repeated(found)
    for member, raw in found:
        if member != "data" and raw[0] == ord("{"):
            repeated += [f"{member}.{name}" for name in _repeated(_decode_members(raw))]
    if repeated:
        raise WrongValuesError(_at_most([f"{_shortened(name)}: is given more than once" for name in repeated]))
    return dict(found)


def _decode_members(text: memoryview) -> list[tuple[str, memoryview]]:
    """The members of a JSON object in their order. Raises MalformedError and TooLargeError."""
    try:
        return _decode(text)
    except msgspec.DecodeError:
        # JSON's grammar allows lone surrogates, and an item that has one is rejected alone, but the decoder refuses
        # them. It gets a copy of the same length without any; the members stand at the same places of both.
        copy = bytearray()
        for part in without_escapes(blocks(text), b"\\", len(r"\uD800"), partial(_SURROGATE.sub, rb"\\u0020")):
            copy += part
    try:
        found = _decode(memoryview(copy))
    except msgspec.DecodeError as error:
        raise _malformed(str(error).removeprefix("JSON is malformed: ")) from None
    members = []
    for name, raw in found:
        start = _address(raw) - _address(copy)
        members.append((name, text[start : start + len(raw)]))
    return members


def _decode(text: memoryview) -> list[tuple[str, memoryview]]:
    """As `_decode_members`. Raises msgspec.DecodeError as well, for text that is not JSON or has lone surrogates."""
    count = 0

    def named(_: type, name: Any) -> _Name:
        nonlocal count
        count += 1
        if count > _MOST_MEMBERS:
            raise _too_many_options()
        return _Name(name)

    decoder = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=named)
    try:
        return [(name.text, memoryview(raw)) for name, raw in decoder.decode(text).items()]
    except msgspec.ValidationError:
        raise MalformedError("malformed_json", "The body must be one JSON object.") from None
    except RecursionError:
        raise _malformed("too deeply nested") from None


def _address(view: memoryview | bytearray) -> int:
    return np.frombuffer(view, np.uint8).ctypes.data


def _repeated(members: Iterable[tuple[str, memoryview]]) -> list[str]:
    counted = Counter(name for name, _ in members)
    return [name for name, count in counted.items() if count > 1]


def _check_encoding(body: memoryview) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), MIB):
            decoder.decode(body[start : start + MIB])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise MalformedError("malformed_json", "The body is not in UTF-8.") from None


def _malformed(fault: str) -> MalformedError:
    return MalformedError("malformed_json", f"The body is not JSON: {fault}.")


def _too_many_options() -> TooLargeError:
    return TooLargeError(f"The members beside data are larger than {MOST_OPTION_BYTES:,} bytes.")


def check_members(model: type[_Model], members: Mapping[str, memoryview]) -> _Model:
    """The model of these members. Raises WrongValuesError, naming each wrong value."""
    text = "{" + ",".join(f"{json.dumps(name)}:{bytes(raw).decode()}" for name, raw in members.items()) + "}"
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise WrongValuesError(describe_errors(error.errors(include_url=False, include_input=False))) from None


def read_request(members: Mapping[str, memoryview]) -> BatchRequest:
    """The request of these members without `data`. Raises WrongValuesError, naming each wrong value."""
    request = check_members(BatchRequest, {name: raw for name, raw in members.items() if name != "data"})
    try:
        check_action(request.resource, request.action)
    except RefusedError:
        known = ", ".join(sorted(action.value for action in RESOURCES[request.resource].actions))
        raise WrongValuesError(
            [f"action: {request.action.value} is not available for {request.resource}; use {known}"]
        ) from None
    return request


def describe_errors(errors: Sequence[Any]) -> list[str]:
    """The errors of a pydantic validation, each as "field: what is wrong"; of very many the first, and their number."""
    return _at_most([f"{_field_name(error['loc'])}: {_error_text(error)}" for error in errors])


def _at_most(errors: list[str]) -> list[str]:
    more = len(errors) - _MOST_ERRORS
    return errors if more <= 0 else [*errors[:_MOST_ERRORS], f"and {more:,} more"]


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_CHARACTERS else f"{name[:_NAME_CHARACTERS]}…"


def _field_name(location: Sequence[Any]) -> str:
    return ".".join(_shortened(str(part)) for part in location if part != "[key]") or "body"


def _error_text(error: Any) -> str:
    kind = error["type"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not known here"
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]
