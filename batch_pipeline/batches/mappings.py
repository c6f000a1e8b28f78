"""Remembers the column mappings of completed batches, by organization, resource and header.

A header is the set of its names; their order does not matter. The table has names of headers and fields, and no value
of an item.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.model import Action, Address, Batch
from batch_pipeline.batches.tables import column_mappings
from batch_pipeline.database import single_statements, translating_outages


@dataclass(frozen=True)
class RememberedMapping:
    """A mapping (record field -> header) and the newest batch that completed with it."""

    mapping: dict[str, str]
    batch_id: str


def remember_mapping(connection: sa.Connection, batch: Batch) -> None:
    """Remembers the mapping of a batch in the transaction that completes it, instead of an earlier one of its header.

    Changes nothing for a batch without a mapping.
    """
    if not batch.column_mapping or batch.address.action is Action.undo:
        return
    values = {
        "organization_id": batch.address.organization_id,
        "resource": batch.address.resource,
        "header_hash": header_hash(batch.facts.columns),
        "mapping": batch.column_mapping,
        "batch_id": batch.id,
        "used_at": sa.func.clock_timestamp(),
    }
    connection.execute(
        insert(column_mappings)
        .values(values)
        .on_conflict_do_update(
            index_elements=["organization_id", "resource", "header_hash"],
            set_={name: values[name] for name in ("mapping", "batch_id", "used_at")},
        )
    )


def find_mapping(engine: sa.Engine, address: Address, header: Iterable[str]) -> RememberedMapping | None:
    """The mapping that is remembered for this header of the address's organization and resource."""
    statement = sa.select(column_mappings.c.mapping, column_mappings.c.batch_id).where(
        column_mappings.c.organization_id == address.organization_id,
        column_mappings.c.resource == address.resource,
        column_mappings.c.header_hash == header_hash(header),
    )
    with translating_outages(), single_statements(engine).connect() as connection:
        row = connection.execute(statement).one_or_none()
    return None if row is None else RememberedMapping(dict(row.mapping), row.batch_id)


def forget_old_mappings(engine: sa.Engine, *, days: int) -> int:
    """Deletes the mappings that no batch has used for so many days; returns how many."""
    used_before = sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, days)
    statement = sa.delete(column_mappings).where(column_mappings.c.used_at < used_before)
    with translating_outages(), engine.begin() as connection:
        return connection.execute(statement).rowcount


def header_hash(header: Iterable[str]) -> bytes:
    """SHA-256 of the set of names."""
    return hashlib.sha256(json.dumps(sorted(set(header))).encode()).digest()
