"""Pages of an organization's batches, with their exact total.

The total is counted in an index: 0.3 s for a million batches of one organization. A page without filters scans one
index in the order of creation. A page with filters merges the index ranges of all kinds (resource, action, mode, via,
status) that match. A page in the second half is read backwards from the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.batch_object import STORED, batch_object
from batch_pipeline.batches.tables import batches
from batch_pipeline.database import borrowed, rows_by_name, statement_text, translating_outages

KIND = ("resource", "action", "mode", "via", "status")

Kind = tuple[str, ...]
Statement = sa.Select[Any]


@dataclass(frozen=True)
class Filters:
    """Equality filters; None does not filter."""

    resource: str | None = None
    action: str | None = None
    mode: str | None = None
    via: str | None = None
    status: str | None = None

    def given(self) -> dict[str, str]:
        """The filters that are not None, by column name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Page:
    """The batch objects of one page, and the number of batches on all pages."""

    batches: list[dict[str, Any]]
    total_count: int
    has_more: bool


def list_page(
    engine: sa.Engine,
    organization_id: str,
    filters: Filters,
    *,
    page: int,
    limit: int,
    newest_first: bool = False,
) -> Page:
    """Page number `page` (from 1) of `limit` batches, ordered by creation.

    Total and page come from one snapshot. Batches from inbox folders without a known resource or action are left out:
    they are for the operator.
    """
    if page == 1 and not filters.given():
        return _first_page(engine, organization_id, limit, newest_first=newest_first)
    with translating_outages(), engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        kinds: list[Kind] | None = None
        if filters.given():
            rows = connection.execute(kinds_statement(organization_id, filters)).all()
            kinds = sorted(tuple(row[:-1]) for row in rows)
            total = sum(int(row[-1]) for row in rows)
        else:
            total = connection.execute(total_statement(organization_id)).scalar_one()
        offset = (page - 1) * limit
        wanted = max(0, min(limit, total - offset))
        found: Sequence[sa.Row[Any]] = ()
        if wanted:
            statement = page_statement(
                organization_id, kinds, total=total, offset=offset, wanted=wanted, newest_first=newest_first
            )
            found = connection.execute(statement).all()
        connection.commit()  # at a ROLLBACK, psycopg forgets the statements that it has prepared
    return Page([batch_object(row._asdict()) for row in found], total, has_more=offset + wanted < total and wanted > 0)


def _first_page(engine: sa.Engine, organization_id: str, limit: int, *, newest_first: bool) -> Page:
    """The page that most calls ask for, and the total, in one statement."""
    statement = _FIRST_PAGES[newest_first]
    with translating_outages(), borrowed(engine) as connection:
        answer = rows_by_name(connection).execute(statement, {"organization_id": organization_id, "limit": limit})
    rows = answer.fetchall()
    total = int(rows[0]["total"])
    found = [batch_object(row) for row in rows if row["id"] is not None]  # an empty page is a row of nulls
    return Page(found, total, has_more=len(found) < total)


def page_statement(
    organization_id: str,
    kinds: Sequence[Kind] | None,
    *,
    total: int,
    offset: int,
    wanted: int,
    newest_first: bool,
) -> Statement:
    """The query for `wanted` (at least 1) batches from `offset` on; `kinds` None selects all kinds."""
    from_end = offset > total - offset - wanted
    skipped = total - offset - wanted if from_end else offset
    descending = newest_first != from_end
    place = (batches.c.created_at, batches.c.id)
    if kinds is None:
        listed = sa.select(*place).where(*_listed(organization_id))
        within = listed.order_by(*_ordered(place, descending)).limit(wanted).offset(skipped).subquery()
    else:
        # PostgreSQL merges the ranges in index order only if each has its own ORDER BY and LIMIT.
        ranges = [
            sa.select(*place)
            .where(
                batches.c.organization_id == organization_id,
                *(batches.c[name] == value for name, value in zip(KIND, kind, strict=True)),
            )
            .order_by(*_ordered(place, descending))
            .limit(skipped + wanted)
            for kind in kinds
        ]
        merged = (ranges[0] if len(ranges) == 1 else sa.union_all(*ranges)).subquery()
        within = (
            sa.select(merged)
            .order_by(*_ordered((merged.c.created_at, merged.c.id), descending))
            .limit(wanted)
            .offset(skipped)
            .subquery()
        )
    return (
        sa.select(*(batches.c[name] for name in STORED))
        .join(within, within.c.id == batches.c.id)
        .order_by(*_ordered((within.c.created_at, within.c.id), newest_first))
    )


def first_page_statement(*, newest_first: bool) -> Statement:
    """The query for the total and the first page, with the parameters `organization_id` and `limit`."""
    listed = _listed(sa.bindparam("organization_id"))
    place = (batches.c.created_at, batches.c.id)
    first = sa.select(*place).where(*listed).order_by(*_ordered(place, newest_first)).limit(sa.bindparam("limit"))
    within = first.subquery()
    page = sa.select(*(batches.c[name] for name in STORED)).join(within, within.c.id == batches.c.id).subquery()
    counted = sa.select(sa.func.count().label("total")).where(*listed).subquery()
    return (
        sa.select(counted.c.total, page)
        .select_from(counted.outerjoin(page, sa.true()))
        .order_by(*_ordered((page.c.created_at, page.c.id), newest_first))
    )


def total_statement(organization_id: str) -> Statement:
    """The query for the number of an organization's batches."""
    return sa.select(sa.func.count()).where(*_listed(organization_id))


def kinds_statement(organization_id: str, filters: Filters) -> Statement:
    """The query for the kinds that match the filters, each with its number of batches."""
    kind = [batches.c[name] for name in KIND]
    given = (batches.c[name] == value for name, value in filters.given().items())
    return sa.select(*kind, sa.func.count()).where(*_listed(organization_id), *given).group_by(*kind)


def _listed(organization_id: str | sa.BindParameter[Any]) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        batches.c.organization_id == organization_id,
        batches.c.resource.is_not(None),
        batches.c.action.is_not(None),
    )


def _ordered(columns: Sequence[sa.ColumnElement[Any]], descending: bool) -> list[sa.ColumnElement[Any]]:
    return [column.desc() if descending else column for column in columns]


# SQLAlchemy takes longer to make and to execute the statement than PostgreSQL, so it only writes it, once.
_FIRST_PAGES = {newest: statement_text(first_page_statement(newest_first=newest)) for newest in (False, True)}
