"""What the sensors look after, for one organization: files, upload URLs, batches, their runs, and what grows old."""

import secrets
from datetime import UTC, datetime, timedelta

import psycopg
from batch_runs import new_organization
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter

from batch_pipeline.batches.accept import IdempotencyKey, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import FINAL, BatchStatus
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.reconciling import cancel_batch
from batch_pipeline.orchestration.requested_runs import QUEUED_PER_SLOT
from batch_pipeline.storage import keys
from batch_pipeline.system import System

PAYLOAD = b"name\nAda\n"


class World:
    """One organization's files, batches and runs."""

    def __init__(self, system: System, instance: DagsterInstance) -> None:
        self.system = system
        self.instance = instance
        self.organization = new_organization(system)
        self.dropped: list[str] = []  # keys of files in the inbox
        # Of batches made for an upload by URL:
        self.asked: list[str] = []
        self.sent: set[str] = set()  # those whose file came
        self.late: set[str] = set()  # those whose file came after they had ended
        self.aged: set[str] = set()  # batches that ended longer ago than files are kept
        self.old_keys: set[str] = set()  # batches whose idempotency key was used longer ago than keys are kept

    # ---- what befalls it ---------------------------------------------------------------------------------------

    def drop(self) -> None:
        """A file comes to the inbox."""
        self.dropped.append(f"uploads/{self.organization}/contact/merge/{len(self.dropped)}-{secrets.token_hex(2)}.csv")
        self.system.store.write(self.dropped[-1], PAYLOAD)

    def ask(self) -> str:
        """A batch is made for an upload by URL, with an idempotency key."""
        new = NewBatch(
            id=new_batch_id(),
            organization_id=self.organization,
            resource="contact",
            action=Action.merge,
            name="by URL",
            options=BatchOptions(),
            upload_expires_at=datetime.now(UTC) + timedelta(hours=1),
        )
        accept(self.system.engine, new, idempotency=IdempotencyKey(new.id, b"body"))
        self.asked.append(new.id)
        return new.id

    def send(self, batch_id: str) -> None:
        """A file comes to the batch's upload URL, whose signature may have run out a moment later."""
        if self.system.ledger.get(batch_id).status in FINAL and batch_id not in self.sent:
            self.late.add(batch_id)
        self.sent.add(batch_id)
        self.system.store.write(keys.requested(batch_id), PAYLOAD)

    def runs_out(self, batch_id: str) -> None:
        """The batch's upload URL is good no longer."""
        self._change("UPDATE batches SET upload_expires_at = now() WHERE id = %s", batch_id)

    def ages(self, batch_id: str) -> None:
        """The batch ended, and its idempotency key was used, longer ago than anything is kept."""
        self._change("UPDATE batches SET updated_at = now() - interval '31 days' WHERE id = %s", batch_id)
        self._change(
            "UPDATE idempotency_keys SET created_at = now() - interval '31 days' WHERE batch_id = %s", batch_id
        )
        self.aged.add(batch_id)
        self.old_keys.add(batch_id)

    def begins(self, batch: Batch, run: DagsterRun) -> None:
        """The batch's run begins, by a worker that nobody hears of again."""
        self.system.ledger.begin_attempt(batch.id, run.run_id)
        self.instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_START.value, run.job_name), run.run_id)

    def completes(self, batch: Batch, run: DagsterRun) -> None:
        """The batch's run does all its work."""
        self.begins(batch, run)
        for status in (BatchStatus.queued, BatchStatus.processing, BatchStatus.completed):
            self.system.ledger.transition(batch.id, run.run_id, status)
        self.instance.report_dagster_event(DagsterEvent(DagsterEventType.RUN_SUCCESS.value, run.job_name), run.run_id)

    def retries(self, batch: Batch) -> None:
        """Somebody asks for the batch to be run again."""
        self.system.ledger.request_rerun(batch.id, Starter.launcher)
        self.aged.discard(batch.id)

    def passes_pauses(self) -> None:
        """The pauses before automatic re-runs pass."""
        with psycopg.connect(self.system.database_url) as connection:
            due = (
                "UPDATE batches SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL AND organization_id = %s"
            )
            connection.execute(due, (self.organization,))

    # ---- how it stands -----------------------------------------------------------------------------------------

    def batches(self) -> list[Batch]:
        """All batches, in order."""
        return self.system.ledger.find(organization_id=self.organization, newest_first=False)

    def of_files(self) -> list[Batch]:
        """Those of files in the inbox, in order."""
        return [batch for batch in self.batches() if batch.id not in self.asked]

    def runs(self, batch: Batch) -> list[DagsterRun]:
        """Newest first."""
        return list(self.instance.get_runs(RunsFilter(tags={tags.BATCH_ID: batch.id})))

    def waiting(self) -> list[tuple[Batch, DagsterRun]]:
        """The batches whose run is in Dagster's queue, in the order in which Dagster would start them."""
        found = [(batch, run) for batch in self.batches() for run in self.runs(batch) if not run.is_finished]
        return [(batch, run) for batch, run in found if run.status is DagsterRunStatus.QUEUED]

    def codes(self) -> list[str | None]:
        """Why each batch of a file ended."""
        return [batch.reason and batch.reason.code for batch in self.of_files()]

    def check(self) -> None:
        """At no time is there a second batch of a file, or a second run of a batch."""
        sources = [batch.source_key for batch in self.of_files()]
        assert len(sources) == len(set(sources)) <= len(self.dropped)
        for batch in self.batches():
            unfinished = [run for run in self.runs(batch) if not run.is_finished]
            assert len(unfinished) <= 1
            if unfinished and unfinished[0].status is DagsterRunStatus.QUEUED:
                assert batch.awaits_run is Starter.launcher

    def check_nothing_lost(self) -> None:
        """All that was to be done is done: to be asked once every sensor has had its ticks."""
        assert [batch.source_key for batch in self.of_files()] == self.dropped
        assert self.system.store.list(f"uploads/{self.organization}/") == []
        awaiting = sorted((batch.arrival, batch.id) for batch in self.batches() if batch.awaits_run is not None)
        # Dagster's queue holds few runs of an organization at a time; the others are requested once these have begun.
        most = QUEUED_PER_SLOT * self.system.settings.organization_runs
        launched = {batch.id for batch, _ in self.waiting()}
        assert {batch_id for _, batch_id in awaiting[:most]} <= launched <= {batch_id for _, batch_id in awaiting}
        for batch in self.batches():
            if batch.id in self.asked:
                self._check_asked(batch)
            self._check_run(batch)
            self._check_age(batch)

    def leave_nothing_waiting(self) -> None:
        """Cancels what waits: a tick requests a limited number of runs, of which each organization gets its share."""
        for batch in self.batches():
            if batch.awaits_run is not None:
                cancel_batch(self.system, self.instance, batch.id)

    def _check_asked(self, batch: Batch) -> None:
        """A file that came in time is the batch's, once, however late it was looked at; another is gone."""
        assert (batch.arrival is not None) == (batch.id in self.sent - self.late)
        assert self.system.store.list(keys.requested(batch.id)) == []
        if batch.id in self.late:
            assert batch.reason is not None
            assert "too late" in batch.reason.message
        if batch.arrival is None:
            assert batch.upload_expires_at is not None
            ran_out = batch.upload_expires_at < datetime.now(UTC)
            assert batch.status == (BatchStatus.expired if ran_out else BatchStatus.requested)

    def _check_run(self, batch: Batch) -> None:
        finished = [run.status for run in self.runs(batch) if run.is_finished]
        if batch.arrival is None:
            assert self.runs(batch) == []
        elif batch.status == BatchStatus.completed:
            assert finished[0] is DagsterRunStatus.SUCCESS
        elif batch.awaits_run is None:
            assert batch.status == BatchStatus.failed
            assert finished == [] or finished[0] in {DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}

    def _check_age(self, batch: Batch) -> None:
        """What is old has lost its files and its key, and nothing else has."""
        files = self.system.store.list(f"{keys.batch_folder(batch.id)}/")
        assert len(files) == (0 if batch.id in self.aged or batch.arrival is None else 1)
        assert (batch.pruned_at is not None) == (batch.id in self.aged)
        with psycopg.connect(self.system.database_url) as connection:
            found = connection.execute("SELECT FROM idempotency_keys WHERE batch_id = %s", (batch.id,)).fetchall()
        assert len(found) == (1 if batch.id in self.asked and batch.id not in self.old_keys else 0)

    def _change(self, statement: str, batch_id: str) -> None:
        with psycopg.connect(self.system.database_url) as connection:
            assert connection.execute(statement.encode(), (batch_id,)).rowcount <= 1
