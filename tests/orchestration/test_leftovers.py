"""What a run killed just after its batch was completed leaves behind is dropped when it is executed again."""

import pytest
from batch_runs import arrived, new_organization
from dagster import DagsterInstance, DagsterRunStatus, ReexecutionOptions, RunsFilter, execute_job, reconstructable
from launches import batch_job
from staged_rows import staged_rows

from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.phases import cleanup
from batch_pipeline.system import System


class CrashError(Exception):
    """Work ends here."""


@pytest.mark.parametrize("save_upload", [False, True])
def test_re_executing_a_completed_run_deletes_its_leftovers(
    system: System, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch, save_upload: bool
) -> None:
    batch = arrived(system, new_organization(system), b"name\nAda\n", save_upload=save_upload)

    def dies(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(cleanup, "drop_leftovers", dies)
        completed = execute_batch(system, instance, batch)
    assert completed.status == "completed"
    assert staged_rows(system.database_url, batch.id)
    assert system.store.exists(str(batch.upload_key))
    options = ReexecutionOptions(str(completed.run_id))
    assert execute_job(reconstructable(batch_job), instance, reexecution_options=options).success
    assert system.ledger.get(batch.id).stats == completed.stats
    assert staged_rows(system.database_url) == {}
    assert system.store.exists(str(batch.upload_key)) is save_upload
    assert reconcile(system, instance) == []
    assert instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTED])) == []
