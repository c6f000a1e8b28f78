"""Pages of an organization's batches, with their exact total, as quick among millions as among few.

The total is a sum of counters that triggers keep. A page without filters walks one index in the order of creation; one
with filters merges the index stretches of the kinds (resource, action, mode, via, status) that the filters leave. A
page nearer to the end than to the beginning is walked to from the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.rows import batch_from_row
from batch_pipeline.batches.tables import batches, counts
from batch_pipeline.database import translating_outages

KIND = ("resource", "action", "mode", "via", "status")
# So many rows of counters are summed in a fraction of a millisecond; there are at most some hundred kinds.
_COUNTER_ROWS = 1_000
_SPACE = "batch_pipeline.counts:"  # of advisory locks

Kind = tuple[str, ...]
Statement = sa.Select[Any]


@dataclass(frozen=True)
class Filters:
    """What the listed batches have in common; None leaves it open."""

    resource: str | None = None
    action: str | None = None
    mode: str | None = None
    via: str | None = None
    status: str | None = None

    def given(self) -> dict[str, str]:
        """Those that are set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Page:
    """Some of the batches in their order, and how many there are in all."""

    batches: list[Batch]
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
    """The page (from 1) of so many batches each, by creation, oldest first unless asked otherwise.

    Total and page are of the same moment. Batches of inbox folders that name no known resource or action are left
    out: they are the operator's.
    """
    with translating_outages(), engine.connect() as connection:
        # One snapshot for the counts and the page.
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        kinds, counter_rows = count_kinds(connection, organization_id, filters)
        total = sum(kinds.values())
        offset = (page - 1) * limit
        wanted = max(0, min(limit, total - offset))
        found: Sequence[sa.Row[Any]] = ()
        if wanted:
            matching = None if not filters.given() else sorted(kinds)
            statement = page_statement(
                organization_id, matching, total=total, offset=offset, wanted=wanted, newest_first=newest_first
            )
            found = connection.execute(statement).all()
        page_of_batches = [batch_from_row(row) for row in found]
    if counter_rows > _COUNTER_ROWS:
        sum_up_counts(engine, organization_id)
    return Page(page_of_batches, total, has_more=offset + wanted < total and wanted > 0)


def page_statement(
    organization_id: str,
    kinds: Sequence[Kind] | None,
    *,
    total: int,
    offset: int,
    wanted: int,
    newest_first: bool,
) -> Statement:
    """The query for `wanted` (at least one) batches from `offset` on, of these kinds, or of all where None."""
    from_end = offset > total - offset - wanted
    skipped = total - offset - wanted if from_end else offset
    descending = newest_first != from_end
    place = (batches.c.created_at, batches.c.id)
    if kinds is None:
        listed = sa.select(*place).where(
            batches.c.organization_id == organization_id,
            batches.c.resource.is_not(None),
            batches.c.action.is_not(None),
        )
        within = listed.order_by(*_ordered(place, descending)).limit(wanted).offset(skipped).subquery()
    else:
        # Each stretch has an order and a limit of its own: only so does PostgreSQL merge them in their indexes' order.
        stretches = [
            sa.select(*place)
            .where(
                batches.c.organization_id == organization_id,
                *(batches.c[name] == value for name, value in zip(KIND, kind, strict=True)),
            )
            .order_by(*_ordered(place, descending))
            .limit(skipped + wanted)
            for kind in kinds
        ]
        merged = (stretches[0] if len(stretches) == 1 else sa.union_all(*stretches)).subquery()
        within = (
            sa.select(merged)
            .order_by(*_ordered((merged.c.created_at, merged.c.id), descending))
            .limit(wanted)
            .offset(skipped)
            .subquery()
        )
    return (
        sa.select(batches)
        .join(within, within.c.id == batches.c.id)
        .order_by(*_ordered((within.c.created_at, within.c.id), newest_first))
    )


def sum_up_counts(engine: sa.Engine, organization_id: str) -> None:
    """Replaces the organization's counters by their sums, unless another is at it."""
    lock = sa.func.pg_try_advisory_xact_lock(sa.func.hashtextextended(_SPACE + organization_id, 0))
    kind = (counts.c.organization_id, *(counts.c[name] for name in KIND))
    gone = sa.delete(counts).where(counts.c.organization_id == organization_id).returning(counts).cte("gone")
    names = [gone.c[column.name] for column in kind]
    number = sa.func.sum(gone.c.number)
    sums = sa.select(*names, number).group_by(*names).having(number != 0)
    with translating_outages(), engine.begin() as connection:
        if connection.execute(sa.select(lock)).scalar_one():
            connection.execute(sa.insert(counts).from_select([*(column.name for column in kind), "number"], sums))


def sum_up_all_counts(engine: sa.Engine) -> None:
    """`sum_up_counts` for every organization that has many."""
    many = sa.select(counts.c.organization_id).group_by(counts.c.organization_id)
    with translating_outages(), engine.connect() as connection:
        organizations = list(connection.execute(many.having(sa.func.count() > _COUNTER_ROWS)).scalars())
    for organization_id in organizations:
        sum_up_counts(engine, organization_id)


def count_kinds(connection: sa.Connection, organization_id: str, filters: Filters) -> tuple[dict[Kind, int], int]:
    """How many batches there are of each kind that the filters leave, and how many rows of counters say so."""
    numbers: dict[Kind, int] = {}
    rows = 0
    for row in connection.execute(counts_statement(organization_id, filters)):
        values: list[Any] = list(row)
        rows += values[-1]
        if values[-2]:
            numbers[tuple(values[:-2])] = int(values[-2])
    return numbers, rows


def counts_statement(organization_id: str, filters: Filters) -> Statement:
    """The query for the number of batches of each kind that the filters leave, and its rows of counters."""
    kind = [counts.c[name] for name in KIND]
    statement = sa.select(*kind, sa.func.sum(counts.c.number), sa.func.count()).where(
        counts.c.organization_id == organization_id,
        *(counts.c[name] == value for name, value in filters.given().items()),
    )
    return statement.group_by(*kind)


def _ordered(columns: Sequence[sa.ColumnElement[Any]], descending: bool) -> list[sa.ColumnElement[Any]]:
    return [column.desc() if descending else column for column in columns]
