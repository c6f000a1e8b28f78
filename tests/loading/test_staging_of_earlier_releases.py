"""An overwrite that an earlier release planned can be finished: its list of records to delete has another name now."""

import json
from pathlib import Path

from alembic import command
from alembic.config import Config
from psycopg import sql
from staged_rows import staged_rows

from batch_pipeline import migrations
from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.model import Mode, Via, initial_phases
from batch_pipeline.database import connect, create_engine
from batch_pipeline.loading.own_staging import OwnStaging

BATCH = "batch_1111111111111111111111"


def migrate(database_url: str, *, before: str, to: str) -> None:
    """Only these steps: later ones have been made in this database already."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = create_engine(database_url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.stamp(config, before, purge=True)
        command.upgrade(config, to)
    engine.dispose()


def test_a_list_staged_by_an_earlier_release_is_used_and_dropped(database_url: str) -> None:
    facts = BatchFacts(items=3, to_delete=2).to_row()
    facts["doomed"] = facts.pop("to_delete")
    staging = OwnStaging(BATCH)
    with connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO batches (id, name, phases, stats, work, options, mode, via, status)"
            " VALUES (%s, 'name', %s, '{}', %s, '{}', 'mixed', 'file', 'queued')",
            (BATCH, json.dumps([phase.to_row() for phase in initial_phases(Mode.mixed, Via.file)]), json.dumps(facts)),
        )
        connection.execute(
            sql.SQL("CREATE TABLE {} AS SELECT 1 AS number, 'ctct_a' AS id").format(
                sql.Identifier("staging", f"doomed_{BATCH}")
            )
        )

        migrate(database_url, before="0014", to="0015")

        row = connection.execute("SELECT work FROM batches WHERE id = %s", (BATCH,)).fetchone()
        assert row is not None
        assert BatchFacts.from_row(row[0]) == BatchFacts(items=3, to_delete=2)
        listed = sql.SQL("SELECT id FROM {}").format(staging.to_delete)
        assert connection.execute(listed).fetchall() == [("ctct_a",)]
        staging.drop(connection)
    assert staged_rows(database_url) == {}
