"""Deleting records: those that items name, and in cleanup those that an overwrite did not find."""

import psycopg
from psycopg import sql

from batch_pipeline.batches.locks import Turn
from batch_pipeline.batches.model import PhaseName
from batch_pipeline.loading.chunks import ChunkOutcome, ChunkWriter, ItemWriter
from batch_pipeline.loading.memberships import LinkRemover
from batch_pipeline.loading.staging import Connection, Staging
from batch_pipeline.records.resource import Resource


class DeleteWriter(ItemWriter):
    """Deletes the records of a chunk's items; `keep_changes` notes which, for the result file."""

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, turn: Turn, *, keep_changes: bool
    ) -> None:
        super().__init__(connection, staging, turn)
        self._delete = sql.SQL(
            "DELETE FROM {records} r USING {plan} p"
            " WHERE p.row BETWEEN %(first)s AND %(last)s AND p.verdict = 'a'"
            " AND r.organization_id = %(organization)s AND r.id = p.record_id"
        ).format(records=sql.Identifier("public", resource.table), plan=staging.plan)
        if keep_changes:
            self._delete = sql.SQL(
                "WITH done AS ({} RETURNING p.row, r.external_id)"
                " INSERT INTO {} (row, external_id) SELECT row, external_id FROM done"
            ).format(self._delete, staging.changes)
        self._count_meant = sql.SQL(
            "SELECT count(*) FROM {} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'"
        ).format(staging.plan)
        gone = sql.SQL("SELECT record_id FROM {} WHERE row BETWEEN %(first)s AND %(last)s AND verdict = 'a'")
        self._links = LinkRemover(connection, resource, gone.format(staging.plan))

    def apply(self, first: int, last: int) -> ChunkOutcome:
        """Deletes; a record that someone else deleted since the plan counts as unchanged."""
        parameters = self._range(first, last)
        deleted = self._connection.execute(self._delete, parameters).rowcount
        self._links.remove(parameters)
        row = self._connection.execute(self._count_meant, parameters).fetchone()
        meant = 0 if row is None else int(row[0])
        return ChunkOutcome(deleted=deleted, unchanged=meant - deleted)


class CleanupWriter(ChunkWriter):
    """Deletes the records of the list that an overwrite made.

    One that a later-arrived batch has written since then survives, and so does one that the database refuses to
    delete; they leave the list, which in the end is what was deleted.
    """

    phase = PhaseName.cleanup

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, turn: Turn, *, newer: list[str]
    ) -> None:
        super().__init__(connection, staging, turn)
        self._parameters["newer"] = newer
        self._delete = sql.SQL(
            "WITH done AS (DELETE FROM {records} r USING {doomed} d"
            " WHERE d.number BETWEEN %(first)s AND %(last)s"
            " AND r.organization_id = %(organization)s AND r.id = d.id"
            " AND (r.batch_id IS NULL OR r.batch_id <> ALL(%(newer)s))"
            " RETURNING d.number),"
            " spared AS (DELETE FROM {doomed} d WHERE d.number BETWEEN %(first)s AND %(last)s"
            " AND NOT EXISTS (SELECT FROM done WHERE done.number = d.number))"
            " SELECT count(*) FROM done"
        ).format(records=sql.Identifier("public", resource.table), doomed=staging.doomed)
        gone = sql.SQL("SELECT id FROM {} WHERE number BETWEEN %(first)s AND %(last)s").format(staging.doomed)
        self._links = LinkRemover(connection, resource, gone)

    def apply(self, first: int, last: int) -> ChunkOutcome:
        """Deletes a stretch of the list."""
        parameters = self._range(first, last)
        row = self._connection.execute(self._delete, parameters).fetchone()
        self._links.remove(parameters)
        return ChunkOutcome(deleted=0 if row is None else int(row[0]))

    def reject(self, row: int, refusal: psycopg.Error) -> ChunkOutcome:
        """The record stays."""
        del refusal
        spared = self._connection.execute(
            sql.SQL("DELETE FROM {} WHERE number = %s").format(self._staging.doomed), (row,)
        )
        return ChunkOutcome(failed=spared.rowcount)
