"""The calls that read the change log: the history of a record, and the changes of a batch."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from batch_pipeline.api import document
from batch_pipeline.api.envelope import answer
from batch_pipeline.api.models import Envelope
from batch_pipeline.api.paging import PageQuery, paginate
from batch_pipeline.api.routes import BatchId, Limited, Served, refuse_repeated
from batch_pipeline.history.model import ChangeKind
from batch_pipeline.history.reading import batch_changes, record_history
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.service import changing

router = APIRouter(prefix="/v1", tags=["history"])

ResourceName = Annotated[str, Path(json_schema_extra={"enum": list(RESOURCES)}, examples=["contact"])]
RecordId = Annotated[str, Path(examples=["ctct_2Nq8XW6vCkT1aBcDeFgHiJ"])]


@dataclass(frozen=True)
class NamedRecord:
    """The record that a path names; perhaps there is none."""

    resource: str
    record_id: str


async def name_record(resource: ResourceName, record_id: RecordId) -> NamedRecord:
    """The record of the path."""
    return NamedRecord(resource, record_id)


Named = Annotated[NamedRecord, Depends(name_record)]


class FieldChangeOut(BaseModel):
    """The change of one field."""

    field: str | None = Field(description="Of an object: `field.key`; null: the whole record", examples=["metadata.k"])
    before: Any = Field(description="Null if there was no value. Of members and groups: the ids that left")
    after: Any = Field(description="Null if there is no value. Of members and groups: the ids that joined")


class HistoryEntryOut(FieldChangeOut):
    """One line of a record's history."""

    batch: str | None = Field(description="The batch that made the change; null: another tool made it")
    row: int | None = Field(description="Of the upload; null: another tool, or the cleanup of an overwrite")
    at: int = Field(description="Epoch seconds", examples=[1767225600])
    by: str | None = Field(description="Who caused the batch; null: another tool made the change")
    change: ChangeKind


class BatchChangeOut(BaseModel):
    """What a batch changed in one record."""

    id: str = Field(description="Of the record")
    row: int | None = Field(description="Of the upload; null: the cleanup of an overwrite")
    at: int = Field(description="Epoch seconds", examples=[1767225600])
    change: ChangeKind
    changes: list[FieldChangeOut] = Field(description="Empty for a created record")


@router.get(
    "/records/{resource}/{record_id}/history",
    summary="Retrieve the history of a record",
    response_model=Envelope[list[HistoryEntryOut]],
    responses=document.errors(401, 404, 409, 422, 429, 503),
    dependencies=[Depends(refuse_repeated)],
)
async def retrieve_history(
    request: Request,
    service: Served,
    caller: Limited,
    record: Named,
    query: Annotated[PageQuery, Query()],
) -> Response:
    """Who changed what, newest first; also of a deleted record."""
    page = await service.in_thread(
        record_history,
        service.system.engine,
        caller.organization_id,
        record.resource,
        record.record_id,
        changes_days=service.system.settings.changes_days,
        page=query.page,
        limit=query.limit,
    )
    data = [entry.to_json() for entry in page.entries]
    pagination = paginate(query, has_more=page.has_more, total_count=page.total_count)
    return answer(request, HTTPStatus.OK, "History retrieved successfully.", data=data, pagination=pagination)


@router.get(
    "/batches/{batch_id}/changes",
    summary="List the changes of a batch",
    response_model=Envelope[list[BatchChangeOut]],
    responses=document.errors(401, 404, 409, 422, 429, 503),
    dependencies=[Depends(refuse_repeated)],
)
async def list_changes(
    request: Request, service: Served, caller: Limited, batch_id: BatchId, query: Annotated[PageQuery, Query()]
) -> Response:
    """Updates and deletions in the order of writing, then created records by row, then members and groups."""
    batch = await changing.find_batch(service, caller, batch_id)
    page = await service.in_thread(
        batch_changes,
        service.system.engine,
        batch,
        changes_days=service.system.settings.changes_days,
        page=query.page,
        limit=query.limit,
    )
    pagination = paginate(query, has_more=page.has_more, total_count=page.total_count)
    return answer(request, HTTPStatus.OK, "Changes retrieved successfully.", data=page.to_json(), pagination=pagination)
