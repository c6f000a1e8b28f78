"""Dagster's launcher that sends runs to Celery workers, without the faults of dagster-celery 0.29.

- Health is the lock that a worker holds while it executes a run. A task's state in the result backend stays STARTED
  if its worker is killed.
- Terminating a run cancels its batch: the run stops at its next check, between two chunks at the latest.
- A run that is launched while the broker is down waits. `resend_lost_tasks` sends its task again, as it does for tasks
  that a restart of Redis lost. The time that a run waits for a worker is not limited.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Self

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._serdes import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from batch_pipeline.batches.locks import is_owned, run_task
from batch_pipeline.batches.states import AT_REST, BatchStatus
from batch_pipeline.database import connect
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.orchestration.celery_app import QUEUE, celery_settings, tasks_in_broker
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.settings import get_settings
from batch_pipeline.system import shared_system

logger = logging.getLogger(__name__)

SENDING_SECONDS = 10.0  # from Dagster's STARTING to a task in the broker
# Of sending a task, after which the run waits for the broker.
_RETRIES = {"max_retries": 2, "interval_start": 0, "interval_step": 0.2}


class CeleryLauncher(CeleryRunLauncher):
    """Sends runs as tasks to the workers. A task has its run's id."""

    def __init__(self, broker_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Without a result backend: a sender with one subscribes to the result of each task that it sends.
        super().__init__(QUEUE, broker=broker_url, config_source=celery_settings(), inst_data=inst_data)

    @classmethod
    def of(cls, instance: DagsterInstance) -> Self:
        """The launcher of an instance whose settings name Celery."""
        launcher = instance.run_launcher
        if not isinstance(launcher, cls):
            raise SettingError("dagster.yaml names another run launcher than SettingsRunLauncher: see BATCH_LAUNCHER")
        return launcher

    def _launch_celery_task_run(self, run: DagsterRun, task_signature: Any, routing_key: str) -> None:
        """Sends the task, or leaves that to `resend_lost_tasks` if the broker can't be reached."""
        instance: DagsterInstance = self._instance
        if run.tags.get(DAGSTER_CELERY_TASK_ID_TAG) != run.run_id:  # a re-execution has its parent's tags
            instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: run.run_id})
        try:
            task_signature.apply_async(
                task_id=run.run_id,
                queue=QUEUE,
                routing_key=f"{QUEUE}.{routing_key}",
                priority=0,  # Dagster's queue has decided the order
                retry_policy=_RETRIES,
            )
        except OperationalError:
            logger.warning("The broker can't be reached: run %s waits for it.", run.run_id)
            instance.report_engine_event("The broker can't be reached. The run starts when it can.", run)
            return
        instance.report_engine_event("The run waits for a worker.", run)

    def terminate(self, run_id: str) -> bool:
        """Cancels the run's batch, or the run if no worker has begun it. Returns False if the run has ended."""
        instance: DagsterInstance = self._instance
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        if run.status is not DagsterRunStatus.CANCELING:
            instance.report_run_canceling(run)
        if not self._is_executing(run_id):
            # A worker that takes the task from now on finds that the run has been cancelled.
            instance.report_run_canceled(run, message="No worker executes the run.")
            return True
        with shared_system() as system:
            batch = system.ledger.of_run(run_id)
            # A run that has not resolved its batch yet is left to reconciling.
            if batch is not None and batch.run_id == run_id and batch.status not in AT_REST and not batch.awaits_run:
                system.ledger.end(batch.id, BatchStatus.failed, cancelled_reason)
        return True

    @property
    def supports_resume_run(self) -> bool:
        """No: a re-run of the batch is a new run."""
        return False

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a process executes the run: it holds the run's lock from before Dagster's STARTED to the end."""
        if run.tags.get(DAGSTER_CELERY_TASK_ID_TAG) != run.run_id:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "Not launched by Celery: reconciling looks after it.")
        if self._is_executing(run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "The worker that executed the run was lost.")

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Nothing: a task's state in the result backend may be wrong."""
        return None

    def resend_lost_tasks(self) -> list[str]:
        """Sends the tasks of runs that wait for a worker and whose task the broker doesn't have. Returns the runs' ids.

        A task sent twice does no harm: the second one finds the run's lock taken, or the run begun.
        """
        instance: DagsterInstance = self._instance
        now = datetime.now(UTC)
        waiting = [
            record.dagster_run
            for record in instance.get_run_records(RunsFilter(statuses=[DagsterRunStatus.STARTING]), ascending=True)
            if (now - record.update_timestamp.astimezone(UTC)).total_seconds() > SENDING_SECONDS
        ]
        if not waiting:
            return []
        try:
            known = tasks_in_broker(self.celery)
        except UnavailableError as error:
            logger.warning("%d runs wait: %s", len(waiting), error.message)
            return []
        lost = [run for run in waiting if run.run_id not in known and not self._is_executing(run.run_id)]
        for run in lost:
            current = instance.get_run_by_id(run.run_id)
            if current is not None and current.status is DagsterRunStatus.STARTING:
                self.launch_run(LaunchRunContext(dagster_run=current, workspace=None))
        return [run.run_id for run in lost]

    @staticmethod
    def _is_executing(run_id: str) -> bool:
        with connect(get_settings().require_database_url(), autocommit=True) as connection:
            return is_owned(connection, run_task(run_id))
