"""The restore drill of docs/deployment.md: a backup of a working system is restored elsewhere, and nothing is lost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backups import back_up, restored
from batch_runs import arrived, as_csv, awaiting_upload, new_organization
from dagster import DagsterInstance
from killing import KillPoint, run_until_killed
from recorded import records_of

from batch_pipeline.batches.model import Starter
from batch_pipeline.batches.states import FINAL, RERUNNABLE, BatchStatus
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.system import System


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "3", "BATCH_DATABASE_WRITERS": "1"}


def test_each_batch_of_a_restored_backup_is_final_or_goes_on_to_the_same_records(
    system: System, instance: DagsterInstance, environment: dict[str, str], tmp_path: Path
) -> None:
    organization = new_organization(system)

    def accepted(number: int, **options: object) -> str:
        rows = [{"external_id": f"{number}-{row}", "name": f"Person {number} {row}"} for row in range(9)]
        return arrived(system, organization, as_csv(rows), starter=Starter.launcher, **options).id

    def run(batch_id: str) -> None:
        execute_batch(system, instance, system.ledger.get(batch_id))

    killed = accepted(0)
    assert run_until_killed(killed, KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", call=2))
    reconcile(system, instance)
    working = [accepted(number) for number in range(1, 5)]
    run(planned := accepted(5, plan_only=True))
    waiting = accepted(6)
    upload = awaiting_upload(system, organization).id

    with ThreadPoolExecutor(1) as worker:  # batches begin and end while the backup is made
        others = worker.submit(lambda: [run(batch_id) for batch_id in working])
        back_up(system, tmp_path)
        others.result()

    run(waiting)
    rerun(system, instance, killed)
    expected = records_of(system)

    with restored(tmp_path, environment) as elsewhere, open_instance(in_process=True) as its_instance:
        reconcile(elsewhere, its_instance)
        batches = {batch_id: elsewhere.ledger.get(batch_id) for batch_id in [killed, *working, waiting]}
        for batch in batches.values():
            assert batch.status in FINAL or batch.awaits_run is Starter.launcher
        assert elsewhere.ledger.get(planned).status is BatchStatus.planned
        assert elsewhere.ledger.get(upload).status is BatchStatus.requested

        # In the order of arrival: a re-run lines up anew, behind the batches that wait.
        for batch in sorted(batches.values(), key=lambda batch: batch.status in RERUNNABLE):
            if batch.status in RERUNNABLE:
                rerun(elsewhere, its_instance, batch.id)
            elif batch.status is not BatchStatus.completed:
                execute_batch(elsewhere, its_instance, batch)
        assert {elsewhere.ledger.get(batch_id).status for batch_id in batches} == {BatchStatus.completed}
        assert records_of(elsewhere) == expected


def rerun(system: System, instance: DagsterInstance, batch_id: str) -> None:
    execute_batch(system, instance, system.ledger.request_rerun(batch_id, Starter.launcher))
