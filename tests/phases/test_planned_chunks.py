"""Chunks know how many of their items get which verdict."""

from dataclasses import replace

import psycopg
import pytest
from batch_runs import Runner, counted, new_organization

from batch_pipeline.batches.model import PhaseName
from batch_pipeline.database import borrowed
from batch_pipeline.loading.chunks import chunks_done, count_left_out, next_chunk
from batch_pipeline.loading.staging import STAGED_BATCH
from batch_pipeline.loading.staging_choice import staging_of
from batch_pipeline.system import System


@pytest.fixture
def run(module_system: System) -> Runner:
    return Runner(module_system, new_organization(module_system))


@pytest.mark.parametrize("shared_staging_items", [0, 200])
def test_each_chunk_knows_how_many_items_get_which_verdict(module_system: System, shared_staging_items: int) -> None:
    settings = module_system.settings.model_copy(
        update={"chunk_rows": 3, "shared_staging_items": shared_staging_items, "database_writers": 2}
    )
    run = Runner(replace(module_system, settings=settings), new_organization(module_system))
    run.csv({"external_id": "5", "name": "n5"}, {"external_id": "6", "name": "old"})
    rows = [
        {
            "external_id": str(n),
            "name": f"n{n}",
            "email": "no email" if n == 7 else "",
            "notes": "refuse me" if n in (2, 8) else "",
        }
        for n in range(10)
    ]
    with psycopg.connect(run.system.database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE contacts ADD CONSTRAINT test_refusal CHECK (notes <> 'refuse me')")
        try:
            batch = run.csv(*rows, {"external_id": "9", "name": "other"}, duplicate_handling="use_last")
        finally:
            connection.execute("ALTER TABLE contacts DROP CONSTRAINT test_refusal")
        chunks = connection.execute(
            "SELECT first_row, planned_new, planned_existing, planned_unchanged, planned_rejected, planned_duplicates,"
            " created, updated, unchanged, failed FROM batch_chunks WHERE batch_id = %s AND phase = 'processing'"
            " ORDER BY number",
            (batch.id,),
        ).fetchall()
    assert counted(batch) == {"created": 5, "updated": 1, "unchanged": 1, "rejected": 3, "duplicates": 1}
    # first row; planned: new, existing, unchanged, rejected, duplicates; done: created, updated, unchanged, failed
    assert chunks == [
        (1, 3, 0, 0, 0, 0, 2, 0, 0, 1),
        (4, 2, 0, 1, 0, 0, 2, 0, 1, 0),
        (7, 1, 1, 0, 1, 0, 0, 1, 0, 1),
        (10, 1, 0, 0, 0, 1, 1, 0, 0, 0),
    ]


def test_the_items_of_a_plan_of_an_earlier_release_are_counted_from_the_plan(run: Runner) -> None:
    batch = run.csv(
        {"external_id": "1", "name": "a"},
        {"external_id": "1", "name": "b"},
        {"external_id": "2", "name": "c", "email": "no email"},
        {"external_id": "3", "name": "d", "phone": "no phone"},
        duplicate_handling="use_first",
        plan_only=True,
    )
    with borrowed(run.system.engine, **{STAGED_BATCH: batch.id}) as connection:
        assert chunks_done(connection, batch.id, PhaseName.processing).left_out == (2, 1)
        connection.execute("UPDATE batch_chunks SET planned_new = NULL WHERE batch_id = %s", (batch.id,))
        chunk = next_chunk(connection, batch.id, PhaseName.processing)
        assert chunk is not None
        assert chunk.planned is None
        assert chunks_done(connection, batch.id, PhaseName.processing).left_out is None
        assert count_left_out(connection, staging_of(batch)) == (2, 1)


# ---- other batches ---------------------------------------------------------------------------------------------
