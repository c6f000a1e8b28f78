"""An overwrite that an earlier release planned can be finished: its list of records to delete has another name now."""

import json

from psycopg import sql

from batch_pipeline import migrations
from batch_pipeline.batches.model import Mode, Via, Work, initial_phases
from batch_pipeline.database import connect
from batch_pipeline.loading.staging import Staging

BATCH = "batch_1111111111111111111111"


def test_the_list_that_an_earlier_release_staged_is_found_and_dropped(database_url: str) -> None:
    work = Work(items=3, to_delete=2).to_row()
    work["doomed"] = work.pop("to_delete")
    staging = Staging(BATCH)
    with connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE batch_pipeline_schema SET version_num = '0014'")
        connection.execute(
            "INSERT INTO batches (id, name, phases, stats, work, options, mode, via, status)"
            " VALUES (%s, 'name', %s, '{}', %s, '{}', 'mixed', 'file', 'queued')",
            (BATCH, json.dumps([phase.to_row() for phase in initial_phases(Mode.mixed, Via.file)]), json.dumps(work)),
        )
        connection.execute(
            sql.SQL("CREATE TABLE {} AS SELECT 1 AS number, 'ctct_a' AS id").format(
                sql.Identifier("staging", f"doomed_{BATCH}")
            )
        )

        migrations.upgrade(database_url)

        row = connection.execute("SELECT work FROM batches WHERE id = %s", (BATCH,)).fetchone()
        assert row is not None
        assert Work.from_row(row[0]) == Work(items=3, to_delete=2)
        listed = sql.SQL("SELECT id FROM {}").format(staging.to_delete)
        assert connection.execute(listed).fetchall() == [("ctct_a",)]
        staging.drop(connection)
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'").fetchone() == (0,)
