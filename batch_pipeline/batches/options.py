"""The options of a batch: names, defaults and bounds, the same for sidecar files, the Launchpad, CLI and API."""

import re
from collections import Counter
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from batch_pipeline.batches.facts import REMEMBERED
from batch_pipeline.batches.model import BlankCells, DuplicateHandling, UnknownColumns
from batch_pipeline.errors import RefusedError

NAME_MIN = 3
NAME_MAX = 127

# Bounds of the error text: it becomes the batch's reason, and the sender's input could make it arbitrarily long.
_MAX_ERRORS = 10
_MAX_LOCATION_CHARACTERS = 100
_MAX_MESSAGE_CHARACTERS = 300

_LIMIT = re.compile(r"none|\d{1,12}|\d{1,3}(\.\d+)?%")


_Options = TypeVar("_Options", bound=BaseModel)


def _mapping_or_remembered(value: Any, read_mapping: ValidatorFunctionWrapHandler) -> Any:
    if value == REMEMBERED:
        return value
    if not isinstance(value, dict):
        message = "must be an object of fields and their headers, or {word}"
        raise PydanticCustomError("mapping", message, {"word": REMEMBERED})
    return read_mapping(value)


# Not pydantic's schema of a union: its errors would name the union's members.
ColumnMapping = Annotated[
    dict[str, str] | Literal["remembered"],
    GetPydanticSchema(
        lambda _, handler: core_schema.no_info_wrap_validator_function(
            _mapping_or_remembered,
            handler.generate_schema(dict[str, str]),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value),
        )
    ),
]


class BatchOptions(BaseModel):
    """The options of `batches.md`. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        None, min_length=NAME_MIN, max_length=NAME_MAX, description="A label; default: the file's name"
    )
    duplicate_handling: DuplicateHandling = Field(
        DuplicateHandling.ignore_all,
        description="Items that identify the same record but differ: reject them all, or use the first or the last",
    )
    properties: dict[str, str] = Field(
        default_factory=dict,
        description="Default values for fields that an item does not define or leaves blank",
    )
    column_mapping: ColumnMapping = Field(
        default_factory=dict,
        description="Record field -> header in the file; or remembered: the mapping with which a batch of the same "
        "header completed",
    )
    blank_cells: BlankCells | None = Field(
        None,
        description="What an empty cell means for an existing record; default: keep for merge, clear for overwrite",
    )
    default_region: str | None = Field(
        None,
        pattern="^[A-Z]{2}$",
        description="Region of national phone numbers; default: the organization's",
    )
    save_upload: bool = Field(True, description="Keep the original for download")
    save_result: bool = Field(False, description="Write the outcome of each item to result.json")
    delete_limit: str | None = Field(
        None,
        description="Most records to delete: a count, a percentage, or none; above it nothing is written",
    )
    reject_limit: str = Field(
        "none",
        description="Most items to reject: a count, a percentage of those read, or none; above it nothing is written",
    )
    allow_empty: bool = Field(False, description="Overwrite only: an upload without items deletes all records")
    plan_only: bool = Field(False, description="Stop after validation and show what the batch would do")
    timeout_seconds: int | None = Field(
        None, gt=0, le=7 * 24 * 3600, description="Running time of one attempt; default: the deployment's"
    )
    unknown_columns: UnknownColumns = Field(
        UnknownColumns.refuse,
        description="Columns that the resource does not have: refuse the file (JSON: the items), or ignore them",
    )

    @field_validator("name", "properties", "column_mapping")
    @classmethod
    def _texts_can_be_stored(cls, value: Any) -> Any:
        texts = [*value, *value.values()] if isinstance(value, dict) else [value or ""]
        if any("\x00" in text for text in texts):
            raise ValueError("has a NUL character, which no text can have")
        try:
            for text in texts:
                text.encode()
        except UnicodeEncodeError:
            raise ValueError("has half a surrogate pair (\\uD800 to \\uDFFF), which is no text") from None
        return value

    @field_validator("column_mapping")
    @classmethod
    def _headers_are_unique(cls, value: dict[str, str] | str) -> dict[str, str] | str:
        if isinstance(value, str):
            return value
        repeated = sorted(header for header, count in Counter(value.values()).items() if count > 1)
        if repeated:
            raise ValueError(f"maps the header {repeated[0]!r} to more than one field")
        return value

    @field_validator("delete_limit", "reject_limit", mode="before")
    @classmethod
    def _limit_is_readable(cls, value: Any, info: ValidationInfo) -> Any:
        return cls.model_fields[str(info.field_name)].default if value is None else _limit_text(value)

    @field_validator("default_region")
    @classmethod
    def _region_is_known(cls, value: str | None) -> str | None:
        if value is None:
            return None
        from phonenumbers import SUPPORTED_REGIONS  # only a region that is given waits for its import

        if value not in SUPPORTED_REGIONS:
            raise ValueError(f"{value} is not a region: use a two-letter code such as US or DE")
        return value


class UndoOptions(BaseModel):
    """The options of an undo. They mean the same as those of other batches."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    plan_only: bool = Field(False, description="Stop after validation and show what the undo would do")
    delete_limit: str | None = Field(
        None, description="Most records to delete: a count, a percentage, or none; above it nothing is written"
    )
    timeout_seconds: int | None = Field(
        None, gt=0, le=7 * 24 * 3600, description="Running time of one attempt; default: the deployment's"
    )

    @field_validator("delete_limit", mode="before")
    @classmethod
    def _limit_is_readable(cls, value: Any) -> Any:
        return None if value is None else _limit_text(value)

    @field_validator("timeout_seconds", mode="before")
    @classmethod
    def _number_is_whole(cls, value: Any) -> Any:
        return int(value) if isinstance(value, float) and value.is_integer() else value  # JSON knows no difference


def _limit_text(value: Any) -> str:
    """A limit as it is stored. Raises ValueError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not distinguish 500 and 500.0
    # Don't call str() on nested values: they may be huge.
    text = str(value).replace(" ", "").lower() if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not _LIMIT.fullmatch(text):
        raise ValueError("must be a count (500), a percentage (10%), or none")
    if text.endswith("%") and float(text[:-1]) > 100:
        raise ValueError("must be a percentage of at most 100%")
    return text


OPTION_NAMES: tuple[str, ...] = tuple(BatchOptions.model_fields)


def parse_options(data: Any) -> BatchOptions:
    """Validates options from JSON-like data. Raises RefusedError (`invalid_options`) that names the wrong options."""
    return _validated(BatchOptions, data)


def parse_undo_options(data: Any) -> UndoOptions:
    """As `parse_options`, for an undo."""
    return _validated(UndoOptions, data)


def _validated(model: type[_Options], data: Any) -> _Options:
    if not isinstance(data, dict):
        raise RefusedError("invalid_options", "The options must be one JSON object of option names and values.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        wrong = [
            f"{_location_text(item['loc'])}: {_error_text(item['type'], item['msg'])}" for item in found[:_MAX_ERRORS]
        ]
        if len(found) > _MAX_ERRORS:
            wrong.append(f"and {len(found) - _MAX_ERRORS:,} more")
        raise RefusedError("invalid_options", f"The options have wrong values: {'; '.join(wrong)}.") from None


def _location_text(location: tuple[int | str, ...]) -> str:
    """The path of the wrong value. It contains names that the sender chose, so it is truncated and escaped."""
    return _truncate(".".join(str(part) for part in location), _MAX_LOCATION_CHARACTERS)


def _truncate(text: str, characters: int) -> str:
    """At most `characters` of the text, unprintable ones escaped; a truncated text ends in `…`."""
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text[:characters])
    return shown if len(text) <= characters else f"{shown}…"


def _error_text(kind: str, message: str) -> str:
    """The error in our words; `kind` and `message` are pydantic's."""
    if kind == "extra_forbidden":
        return f"is not an option; known are {', '.join(OPTION_NAMES)}"
    return _truncate(message.removeprefix("Value error, "), _MAX_MESSAGE_CHARACTERS)


def label_from_file_name(file_name: str) -> str:
    """The default name of a batch: the file's name, truncated or padded with `_` to the allowed length."""
    label = file_name.strip()[:NAME_MAX]
    return label if len(label) >= NAME_MIN else label.ljust(NAME_MIN, "_")
