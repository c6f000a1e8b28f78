"""A request to create a batch: read from its JSON text, every value checked, the items left as they were written."""

import codecs
import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator

from batch_pipeline.batches.model import Action, Mode
from batch_pipeline.batches.options import OPTION_NAMES, BatchOptions
from batch_pipeline.errors import BatchError, RefusedError, WrongValuesError
from batch_pipeline.records.registry import RESOURCES, check_action
from batch_pipeline.settings import MIB

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


class MalformedError(BatchError):
    """The body is no JSON."""


def check_resource(name: str) -> str:
    """The name, if there is such a resource. Raises ValueError."""
    if name not in RESOURCES:
        raise ValueError(f"there is no {name[:100]!r}; known are {', '.join(RESOURCES)}")
    return name


class BatchRequest(BatchOptions):
    """The members of a request to create a batch, apart from its items."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    resource: Annotated[str, AfterValidator(check_resource)] = Field(
        description="What the items are", json_schema_extra={"enum": list(RESOURCES)}
    )
    action: Action = Field(description="What to do with them; which are available depends on the resource")
    mode: Mode = Field(
        Mode.mixed,
        description="`sync`: the answer is the final batch. `mixed`: the answer comes once the items are validated, "
        "and processing goes on",
    )

    @field_validator("timeout_seconds", mode="before")
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON knows no difference

    def options(self) -> BatchOptions:
        """The options alone."""
        return BatchOptions(**{name: getattr(self, name) for name in OPTION_NAMES})


def read_members(body: memoryview) -> dict[str, memoryview]:
    """The members of the JSON object, each value as the text that it is. Raises MalformedError.

    The whole text is checked, but no value is made of it: that of a large `data` would take many times its size.
    """
    _check_encoding(body)
    try:
        return {name: memoryview(raw) for name, raw in _MEMBERS.decode(body).items()}
    except msgspec.ValidationError:
        raise MalformedError("malformed_json", "The body must be one JSON object.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        if isinstance(error, msgspec.DecodeError) and _SURROGATE.search(body):
            return _members_with_surrogates(body)
        raise _malformed(error) from None


def _members_with_surrogates(body: memoryview) -> dict[str, memoryview]:
    """As `read_members`, for a text with lone surrogates.

    JSON's grammar allows them, and an item that has one is to be rejected alone, but the decoder refuses them: so it
    gets a copy of the same length without, and its findings are carried over by their places.
    """
    plain = np.frombuffer(_SURROGATE.sub(rb"\\u0020", body), dtype=np.uint8)
    try:
        found = _MEMBERS.decode(plain.data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(error) from None
    members = {}
    for name, raw in found.items():
        value = np.frombuffer(memoryview(raw), dtype=np.uint8)
        start = value.ctypes.data - plain.ctypes.data
        members[name] = body[start : start + len(value)]
    return members


def _check_encoding(body: memoryview) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), MIB):
            decoder.decode(body[start : start + MIB])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise MalformedError("malformed_json", "The body is not in UTF-8.") from None


def _malformed(error: Exception) -> MalformedError:
    said = str(error).removeprefix("JSON is malformed: ") if isinstance(error, ValueError) else "too deeply nested"
    return MalformedError("malformed_json", f"The body is no JSON: {said}.")


def read_request(members: dict[str, memoryview]) -> BatchRequest:
    """The request of these members, `data` left aside. Raises WrongValuesError, naming each wrong value."""
    text = (
        "{"
        + ",".join(f"{json.dumps(name)}:{bytes(raw).decode()}" for name, raw in members.items() if name != "data")
        + "}"
    )
    try:
        request = BatchRequest.model_validate_json(text)
    except ValidationError as error:
        raise WrongValuesError(describe_errors(error.errors(include_url=False, include_input=False))) from None
    try:
        check_action(RESOURCES[request.resource], request.action)
    except RefusedError:
        known = ", ".join(sorted(action.value for action in RESOURCES[request.resource].actions))
        raise WrongValuesError(
            [f"action: {request.action.value} is not available for {request.resource}; use {known}"]
        ) from None
    return request


def describe_errors(errors: Sequence[Any]) -> list[str]:
    """What a validation of pydantic's found wrong, each as "field: what is wrong"."""
    return [f"{_place(error['loc'])}: {_said(error)}" for error in errors]


def _place(location: Sequence[Any]) -> str:
    return ".".join(str(part) for part in location if part not in ("body", "query", "path", "[key]")) or "body"


def _said(error: Any) -> str:
    kind = error["type"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not known here"
    said = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return said[:1].lower() + said[1:]
