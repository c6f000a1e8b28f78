"""The summary of a batch's errors, as the OpenAPI document shows it."""

from typing import Annotated

from pydantic import BaseModel, Field

_Count = Annotated[int, Field(ge=0)]


class ErrorGroupOut(BaseModel):
    """The errors of one field and code. No part of it holds a value of an item."""

    field: str | None = Field(description="Null for errors of whole items")
    code: str = Field(examples=["invalid_format"])
    count: _Count
    rows: list[_Count] = Field(max_length=5, description="The first items with the error: places in the upload, from 1")
    suggestion: str | None = Field(
        description="What to do, where that is certain", examples=["write the year first: 2026-01-31T12:30:00Z"]
    )


class ErrorSummaryOut(BaseModel):
    """The errors of the rejected items by field and code. It counts errors: an item can have several."""

    errors: _Count
    groups: list[ErrorGroupOut] = Field(max_length=50, description="The largest first")
    others: _Count = Field(description="Errors in no listed group")
