"""Pages of lists."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class PageQuery(BaseModel):
    """The page of a list."""

    model_config = ConfigDict(extra="forbid")

    page: int = Field(1, ge=1, le=1_000_000_000)
    limit: int = Field(25, ge=1, le=100)


def paginate(query: PageQuery, *, has_more: bool, total_count: int) -> dict[str, Any]:
    """The envelope's `pagination` for a page."""
    return {"page": query.page, "limit": query.limit, "has_more": has_more, "total_count": total_count}
