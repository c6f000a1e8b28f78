"""Which batch created a record, and from which row: both are in the record's id."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from batch_pipeline.database import Connection
from batch_pipeline.loading.record_ids import arrival_and_row, record_ids
from batch_pipeline.records.resource import Resource

# A batch arrives at most this long after it was created: an upload URL is valid for a week.
_LONGEST_UPLOAD = timedelta(days=8)
_ROUNDING = timedelta(microseconds=2)  # the time in an id is rounded down

_ARRIVED = """\
SELECT id, arrived_at FROM batches
WHERE organization_id = %s AND resource = %s AND created_at BETWEEN %s AND %s AND arrived_at BETWEEN %s AND %s"""


@dataclass(frozen=True)
class Creation:
    """The batch and the row of the upload that created a record, and when the batch arrived."""

    record_id: str
    batch_id: str
    row: int
    arrived_at: datetime


def find_creation(connection: Connection, resource: Resource, organization_id: str, record_id: str) -> Creation | None:
    """The creation of the record; None if no batch of this organization created it."""
    parts = arrival_and_row(record_id, resource.id_prefix)
    if parts is None:
        return None
    arrived_at, row = parts
    times = (arrived_at - _LONGEST_UPLOAD, arrived_at + _ROUNDING, arrived_at - _ROUNDING, arrived_at + _ROUNDING)
    for batch_id, at in connection.execute(_ARRIVED, (organization_id, resource.name, *times)).fetchall():
        if created_ids(resource, batch_id, at, [row]) == [record_id]:
            return Creation(record_id, batch_id, row, at)
    return None


def created_ids(resource: Resource, batch_id: str, arrived_at: datetime, rows: Sequence[int]) -> list[str]:
    """The ids of the records that the batch created from these rows."""
    ids = record_ids(resource.id_prefix, batch_id=batch_id, arrived_at=arrived_at, rows=np.array(rows, dtype=np.int64))
    return [str(record_id) for record_id in ids.to_pylist()]
