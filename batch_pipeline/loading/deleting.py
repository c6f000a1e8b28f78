"""The DELETE of a chunk: of the records that a delete's items name, and of those that an overwrite did not find."""

import psycopg
from psycopg import sql

from batch_pipeline.batches.locks import Turn
from batch_pipeline.batches.model import PhaseName
from batch_pipeline.database import Connection
from batch_pipeline.loading.change_log import log_deleted
from batch_pipeline.loading.chunks import ChunkOutcome, ChunkWriter, ItemWriter, Planned
from batch_pipeline.loading.memberships import LinkRemover
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import COMMA, further_ctes, indented, records_table
from batch_pipeline.records.resource import Resource

_DELETE = """\
WITH done AS (
    DELETE FROM {records} r USING {plan} p
    WHERE p.row BETWEEN %(first)s AND %(last)s
      AND p.verdict = 'a'
      AND r.organization_id = %(organization)s
      AND r.id = p.record_id
    RETURNING {returned}
){also}
SELECT count(*) FROM done"""

_NOTE = """\
noted AS (
    INSERT INTO {changes} (row, external_id)
    SELECT row, external_id FROM done
)"""

_NAMED = """\
SELECT record_id AS id, row FROM {plan} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'"""

_COUNT_NAMED = """\
SELECT count(*) FROM {plan} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'"""

_DELETE_LISTED = """\
WITH done AS (
    DELETE FROM {records} r USING {to_delete} d
    WHERE d.number BETWEEN %(first)s AND %(last)s
      AND r.organization_id = %(organization)s
      AND r.id = d.id
      AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))
    RETURNING {returned}
), kept AS (
    DELETE FROM {to_delete} d
    WHERE d.number BETWEEN %(first)s AND %(last)s
      AND NOT EXISTS (SELECT FROM done WHERE done.number = d.number)
){also}
SELECT count(*) FROM done"""

_LISTED = """\
SELECT id, NULL::bigint AS row FROM {to_delete} WHERE number BETWEEN %(first)s AND %(last)s"""


class DeleteWriter(ItemWriter):
    """Deletes the records that a chunk's items name.

    `keep_changes`: the rows and external ids of deleted records are noted in `Staging.changes`, for the result file.
    """

    def __init__(
        self,
        connection: Connection,
        resource: Resource,
        staging: Staging,
        turn: Turn,
        *,
        keep_changes: bool,
        logs: bool,
    ) -> None:
        super().__init__(connection, staging, turn, logs=logs)
        self._delete = delete_statement(resource, staging, keep_changes=keep_changes, logs=logs)
        self._count_named = sql.SQL(_COUNT_NAMED).format(plan=staging.plan)
        self._links = LinkRemover(connection, resource, named_ids(staging), logs=logs)

    def apply(self, first: int, last: int, planned: Planned | None) -> ChunkOutcome:
        """Deletes; a record that another batch or tool deleted since the plan counts as unchanged."""
        parameters = self._range(first, last)
        (deleted,) = self._connection.execute(self._delete, parameters).fetchone() or (0,)
        self._links.remove(parameters)
        if planned is not None:
            named = planned.accepted
        else:
            (named,) = self._connection.execute(self._count_named, parameters).fetchone() or (0,)
        return ChunkOutcome(deleted=deleted, unchanged=named - deleted)


class CleanupWriter(ChunkWriter):
    """Deletes the records in `Staging.to_delete`, which an overwrite's plan lists.

    A record is kept if a batch that arrived later (one of `newer`) has written it since, or if the database refuses to
    delete it. The list loses the kept records, so at the end it has exactly the deleted ones.
    """

    phase = PhaseName.cleanup

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, turn: Turn, *, newer: list[str], logs: bool
    ) -> None:
        super().__init__(connection, staging, turn, logs=logs)
        self._parameters["newer"] = newer
        self._delete = cleanup_statement(resource, staging, logs=logs)
        self._links = LinkRemover(connection, resource, listed_ids(staging), logs=logs)

    def apply(self, first: int, last: int, planned: Planned | None) -> ChunkOutcome:
        """Deletes the records with the numbers `first` to `last` in the list."""
        del planned
        parameters = self._range(first, last)
        (deleted,) = self._connection.execute(self._delete, parameters).fetchone() or (0,)
        self._links.remove(parameters)
        return ChunkOutcome(deleted=deleted)

    def reject(self, row: int, refusal: psycopg.Error) -> ChunkOutcome:
        """Takes the record out of the list, so it is kept."""
        del refusal
        kept = self._connection.execute(
            sql.SQL("DELETE FROM {} WHERE number = %s").format(self._staging.to_delete), (row,)
        )
        return ChunkOutcome(failed=kept.rowcount)


def delete_statement(resource: Resource, staging: Staging, *, keep_changes: bool, logs: bool) -> sql.Composed:
    """The statement that deletes the records named by the items of rows `first` to `last`, and returns their number."""
    returned: sql.Composable = sql.SQL("r.external_id")
    also = []
    if logs:
        returned, logged = log_deleted(resource, row="row")
        also.append(logged)
    if keep_changes:
        also.append(sql.SQL(_NOTE).format(changes=staging.changes))
    return sql.SQL(_DELETE).format(
        records=records_table(resource),
        plan=staging.plan,
        returned=indented(COMMA.join([sql.SQL("p.row"), returned])),
        also=further_ctes(also),
    )


def named_ids(staging: Staging) -> sql.Composed:
    """The query for the ids of those records, and their rows."""
    return sql.SQL(_NAMED).format(plan=staging.plan)


def cleanup_statement(resource: Resource, staging: Staging, *, logs: bool) -> sql.Composed:
    """The statement that deletes the listed records with the numbers `first` to `last`, and returns their number."""
    returned: list[sql.Composable] = [sql.SQL("d.number")]
    also = []
    if logs:
        columns, logged = log_deleted(resource, row="NULL")
        returned.append(columns)
        also.append(logged)
    return sql.SQL(_DELETE_LISTED).format(
        records=records_table(resource),
        to_delete=staging.to_delete,
        returned=indented(COMMA.join(returned)),
        also=further_ctes(also),
    )


def listed_ids(staging: Staging) -> sql.Composed:
    """The query for the ids that are left in that part of the list: the deleted records. They have no row."""
    return sql.SQL(_LISTED).format(to_delete=staging.to_delete)
