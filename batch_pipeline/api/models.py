"""Requests, and answers as the OpenAPI document shows them. The API builds its answers from the ledger's objects."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from batch_pipeline.api.error_models import ErrorSummaryOut
from batch_pipeline.batches.facts import REMEMBERED
from batch_pipeline.batches.ids import ALPHABET
from batch_pipeline.batches.model import (
    Action,
    DuplicateHandling,
    IfChanged,
    Mode,
    PhaseName,
    PhaseStatus,
    Via,
)
from batch_pipeline.batches.options import NAME_MAX, NAME_MIN, ColumnMapping, UndoOptions
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.service.request import BatchRequest, check_resource
from batch_pipeline.settings import Settings

T = TypeVar("T")

BATCH_ID_PATTERN = f"^batch_[{ALPHABET}]{{22}}$"
DATA_URL_PATTERN = (
    r"^data:([A-Za-z0-9_.+-]+/[A-Za-z0-9_.+-]+)?;base64,"
    r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
)
_NO_NUL = r"^[^\u0000]*$"
SYNC_SECONDS: int = Settings.model_fields["sync_timeout_seconds"].default
_Known = Annotated[str, AfterValidator(check_resource), Field(json_schema_extra={"enum": list(RESOURCES)})]
_Count = Annotated[int, Field(ge=0)]
_LimitSchema = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 999_999_999_999},
            {"type": "string", "pattern": r"^(none|[0-9]{1,12}|([0-9]{1,2}(\.[0-9]+)?|100)%)$"},
            {"type": "null"},
        ]
    }
)
_Moment = Annotated[int, Field(description="Epoch seconds", examples=[1767225600])]


class ReasonOut(BaseModel):
    """The reason of a final status."""

    code: str = Field(description="Stable, snake_case", examples=["no_valid_items"])
    message: str = Field(description="A sentence that a user can act on")


class PhaseOut(BaseModel):
    """Progress of one phase, in items (in cleanup: records)."""

    name: PhaseName
    mode: Literal["sync", "async"]
    status: PhaseStatus
    total: _Count | None = Field(description="Null while unknown")
    processed: _Count
    success: _Count = Field(description="Items that continue to the next phase")
    error: _Count = Field(description="Items rejected in this phase")
    reason: str | None = Field(description="Why the phase was skipped or failed")
    started_at: _Moment | None
    ended_at: _Moment | None


class StatsOut(BaseModel):
    """Counts of items by outcome; `overwritten` counts records, as do those of an undo (`reversed` and further)."""

    created: _Count
    updated: _Count
    unchanged: _Count
    deleted: _Count
    overwritten: _Count
    rejected: _Count
    duplicates: _Count
    reversed: _Count
    kept: _Count
    restored: _Count
    conflict: _Count
    gone: _Count


class PlanCountsOut(BaseModel):
    """Items by what would become of them; `overwrite` counts the records that cleanup would delete."""

    create: _Count
    update: _Count
    unchanged: _Count
    delete: _Count
    overwrite: _Count
    reject: _Count
    duplicate: _Count


class SampleOut(BaseModel):
    """A change of one field of an existing record."""

    row: _Count
    id: str
    field: str
    before: Any = Field(description="Of members and groups: the ids that would leave")
    after: Any = Field(description="Of members and groups: the ids that would join")


class DeletionOut(BaseModel):
    """A record that would be deleted."""

    id: str
    external_id: str | None


class WarningOut(BaseModel):
    """What a valid but wrong file looks like, or what was done with its columns."""

    code: str = Field(description="Stable, snake_case", examples=["column_shifted", "unknown_columns_ignored"])
    message: str


class ChangeOut(BaseModel):
    """A change of one field."""

    field: str
    before: Any
    after: Any


class LineOut(BaseModel):
    """One line of a plan."""

    outcome: str
    id: str | None
    changes: list[ChangeOut] | None


class DifferenceOut(BaseModel):
    """A line of the plan that is different from the plan that was shown before."""

    row: _Count | None = Field(description="Null for a record that an overwrite would delete")
    id: str | None = Field(description="That record")
    was: LineOut | None
    now: LineOut | None


class PlanOut(BaseModel):
    """What the batch would do."""

    counts: PlanCountsOut
    fields: dict[str, _Count] = Field(description="Per field, the existing records in which it would change")
    samples: list[SampleOut] = Field(max_length=20)
    deletions: list[DeletionOut] = Field(max_length=100)
    warnings: list[WarningOut]
    digest: str = Field(pattern="^[0-9a-f]{64}$", description="Plans that would do the same have the same digest")
    made_at: _Moment
    expires_at: _Moment = Field(description="Epoch seconds; until then the plan can be applied")
    difference: list[DifferenceOut] = Field(
        default=[], max_length=100, description="What is different from the plan shown before; only after an apply"
    )


class BatchOut(BaseModel):
    """A batch."""

    object: Literal["batch"]
    id: str = Field(pattern=BATCH_ID_PATTERN)
    organization_id: str
    name: str
    resource: _Known
    action: Action
    mode: Mode
    via: Via
    status: BatchStatus
    reason: ReasonOut | None = Field(description="Set for every final status but completed")
    duplicate_handling: DuplicateHandling
    phases: list[PhaseOut] = Field(min_length=4, max_length=4)
    stats: StatsOut
    plan: PlanOut | None = Field(description="Only of batches with plan_only, once they are validated")
    column_mapping: dict[str, str] = Field(
        description="What applies: record field -> header; of `remembered` the mapping that was found"
    )
    suggested_mapping: dict[str, str] | None = Field(
        description="A column_mapping with which to send a file again that was refused for unknown columns; null if "
        "there is none, or the batch was not refused for them"
    )
    warnings: list[WarningOut] = Field(description="About the upload; they stop nothing")
    error_summary: ErrorSummaryOut | None = Field(description="Only of ended batches with an errors file")
    checksum: str | None = Field(description="SHA-256 of the payload, in hex")
    save_upload: bool
    save_result: bool
    has_upload_file: bool
    has_errors_file: bool
    has_result_file: bool
    run_id: str | None = Field(description="Dagster's run of the newest attempt")
    attempts: _Count
    next_attempt_at: _Moment | None = Field(description="When the failed batch runs again by itself; null: it does not")
    retry_of: str | None
    undo_of: str | None = Field(description="The batch that this one takes back")
    created_at: _Moment
    updated_at: _Moment
    updated_by: str


class RequestedBatchOut(BatchOut):
    """A new batch; with an upload URL if it awaits a file."""

    upload_url: str = Field(
        alias="_upload_url", default="", description="Send the file here by PUT, in any of the formats"
    )
    upload_url_expires_at: _Moment = Field(alias="_upload_url_expires_at", default=0)


class DescribedBatchOut(BatchOut):
    """A batch with the requested URLs: null for a file that the batch does not have."""

    upload_csv_url: str | None = Field(alias="_upload_csv_url", default=None)
    upload_json_url: str | None = Field(alias="_upload_json_url", default=None)
    errors_csv_url: str | None = Field(alias="_errors_csv_url", default=None)
    errors_json_url: str | None = Field(alias="_errors_json_url", default=None)
    result_json_url: str | None = Field(alias="_result_json_url", default=None)
    plan_csv_url: str | None = Field(alias="_plan_csv_url", default=None)
    plan_json_url: str | None = Field(alias="_plan_json_url", default=None)


class Pagination(BaseModel):
    """The position of a page in its list."""

    page: Annotated[int, Field(ge=1)]
    limit: Annotated[int, Field(ge=1, le=100)]
    has_more: bool
    total_count: _Count


class Envelope(BaseModel, Generic[T]):
    """The form of every answer."""

    status: int = Field(description="The HTTP status")
    message: str
    data: T
    errors: list[str]
    code: str | None = Field(description="Stable, snake_case; null unless the call failed")
    pagination: Pagination | None = Field(description="Null except on lists")
    endpoint: str = Field(examples=["GET /v1/batches"])


class ErrorEnvelope(Envelope[None]):
    """The answer to a call that failed."""

    code: str


class PlanChangedEnvelope(Envelope[BatchOut | None]):
    """The batch's state does not allow it; or, with the planned batch in `data`, its plan has changed."""

    code: str


class RefusedEnvelope(Envelope[RequestedBatchOut | None]):
    """Wrong values; or, with the failed batch in `data`, a payload that is refused as a whole."""

    code: str


class HealthOut(BaseModel):
    """The check passed."""

    healthy: Literal[True]


class CreateBatch(BatchRequest):
    """The request to create a batch."""

    data: list[Any] | Annotated[str, Field(pattern=DATA_URL_PATTERN)] | None = Field(
        None,
        description="The items, or a file as base64 data URL (`data:text/csv;base64,…`). Without data, the answer has "
        "the URL to send a file to",
    )
    name: str | None = Field(
        None,
        min_length=NAME_MIN,
        max_length=NAME_MAX,
        pattern=_NO_NUL,
        description="A label; default: resource and action",
    )
    properties: dict[Annotated[str, Field(pattern=_NO_NUL)], Annotated[str, Field(pattern=_NO_NUL)]] = Field(
        default_factory=dict, description=BatchRequest.model_fields["properties"].description
    )
    column_mapping: Annotated[
        ColumnMapping,
        WithJsonSchema(
            {
                "anyOf": [
                    {
                        "type": "object",
                        "additionalProperties": {"type": "string", "pattern": _NO_NUL},
                        "propertyNames": {"pattern": _NO_NUL},
                    },
                    {"const": REMEMBERED},
                ],
                "default": {},
                "examples": [{"name": "Full name"}],
            }
        ),
    ] = Field(
        default_factory=dict,
        description="Record field -> header in the file; each header once. `remembered`: the mapping with which a "
        "batch of the same resource and header completed",
    )
    default_region: Annotated[
        str | None, WithJsonSchema({"anyOf": [{"enum": sorted(SUPPORTED_REGIONS)}, {"type": "null"}]})
    ] = Field(None, description=BatchRequest.model_fields["default_region"].description)
    delete_limit: Annotated[str | None, _LimitSchema] = Field(
        None, description="Most records to delete: a count, a percentage, or none; more fail the batch"
    )
    reject_limit: Annotated[str, _LimitSchema] = Field(
        "none",
        description="Most items to reject: a count, a percentage of the items read, or none; more fail the batch. "
        "0 is all or nothing",
    )


class UndoRequest(UndoOptions):
    """The request to undo a batch."""

    delete_limit: Annotated[str | None, _LimitSchema] = Field(
        None, description="Most records to delete: a count, a percentage, or none; more fail the undo"
    )


class RetryRequest(BaseModel):
    """The request to run a batch again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    failed_rows: bool = Field(False, description="Make a new batch of the rejected items only")


class ApplyRequest(BaseModel):
    """The request to apply a plan."""

    model_config = ConfigDict(extra="forbid", strict=True)

    digest: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Of the plan to apply; default: the plan shown now"
    )
    if_changed: IfChanged = Field(
        IfChanged.fail, description="If the plan has changed: `fail` writes nothing and shows it, `replan` writes it"
    )


def _to_bool(value: object) -> object:
    words = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}
    return words.get(value, value) if isinstance(value, str) else value


_Flag = Annotated[
    bool,
    Field(strict=True),
    BeforeValidator(_to_bool),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["True", "False", "1", "0"]}]}),
]


class IncludeQuery(BaseModel):
    """The requested URLs."""

    model_config = ConfigDict(extra="forbid")

    include_upload_csv: _Flag = False
    include_upload_json: _Flag = False
    include_errors_csv: _Flag = False
    include_errors_json: _Flag = False
    include_result_json: _Flag = False
    include_plan_csv: _Flag = False
    include_plan_json: _Flag = False


class ListQuery(BaseModel):
    """Filters, order and page of a list."""

    model_config = ConfigDict(extra="forbid")

    page: int = Field(1, ge=1, le=1_000_000_000)
    limit: int = Field(25, ge=1, le=100)
    order: Literal["asc", "desc"] = Field("asc", description="By creation: oldest or newest first")
    resource: _Known | None = None
    action: Action | None = None
    mode: Mode | None = None
    via: Via | None = None
    status: BatchStatus | None = None
