"""The events of a batch's run are stored together, in order, and none is lost if the database refuses them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from batch_runs import arrived, new_organization
from dagster import DagsterEvent, DagsterInstance
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from waiting import eventually

from batch_pipeline.orchestration import run_events
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.run_events import EventLogStorage, gathering_events, without_wait_for_disk
from batch_pipeline.system import System

OPS = ["parse", "validate", "process", "cleanup"]


@contextmanager
def statements_on_events() -> Iterator[list[str]]:
    """The statements that write events of Dagster within the context."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT INTO event_logs", "NOTIFY")):
            found.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def event(run_id: str, message: str, *, ends_run: bool = False) -> EventLogEntry:
    """An event of a run. One that doesn't end it need not be stored at once."""
    kind = DagsterEventType.RUN_SUCCESS.value
    ending = DagsterEvent(kind, job_name="batch_job", message=message) if ends_run else None
    return EventLogEntry(None, 10, message, run_id, 0.0, job_name="batch_job", dagster_event=ending)


def stored(instance: DagsterInstance, run_id: str) -> list[str]:
    """The messages of the run's events in the database, in order."""
    return [entry.user_message for entry in instance.all_logs(run_id)]


def test_a_batch_stores_its_events_in_a_few_statements_and_in_order(
    module_system: System, module_instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_events, "WAIT_SECONDS", 600.0)  # as if the run took less, also on a busy machine
    with statements_on_events() as statements:
        waiting = arrived(module_system, new_organization(module_system), b"name,email\nAda,\nGrace,no address\n")
        batch = execute_batch(module_system, module_instance, waiting)

    assert batch.run_id is not None
    logged = module_instance.all_logs(batch.run_id)
    kinds = [(entry.dagster_event_type, entry.step_key) for entry in logged]
    assert [entry.timestamp for entry in logged] == sorted(entry.timestamp for entry in logged)
    assert kinds[0] == (DagsterEventType.RUN_START, None)
    assert kinds[-1] == (DagsterEventType.RUN_SUCCESS, None)
    assert [op for kind, op in kinds if kind is DagsterEventType.STEP_SUCCESS] == OPS
    assert kinds.index((DagsterEventType.ASSET_MATERIALIZATION, "cleanup")) < kinds.index(
        (DagsterEventType.ASSET_CHECK_EVALUATION, "cleanup")
    )
    assert len(logged) > 15
    assert len(statements) <= 4


def test_only_the_statements_of_events_that_waited_do_not_wait_for_the_disk(module_instance: DagsterInstance) -> None:
    storage = module_instance.event_log_storage
    assert isinstance(storage, EventLogStorage)
    setting = sa.text("SELECT current_setting('synchronous_commit')")
    engine = sa.create_engine(storage.postgres_url, isolation_level="AUTOCOMMIT", pool_size=1, max_overflow=0)

    found = []
    for each in (engine, without_wait_for_disk(engine), engine):  # on one connection
        with each.connect() as connection:
            found.append(connection.execute(setting).scalar_one())
    engine.dispose()

    assert found == ["on", "off", "on"]


def test_an_event_of_a_long_op_is_stored_while_it_runs(module_instance: DagsterInstance) -> None:
    run_id = str(uuid4())

    with gathering_events(module_instance, run_id):
        module_instance.handle_new_event(event(run_id, "first"))
        module_instance.handle_new_event(event(run_id, "second"))
        eventually(lambda: stored(module_instance, run_id) == ["first", "second"])


def test_events_that_the_database_refuses_wait_until_it_takes_them(
    module_system: System, module_instance: DagsterInstance
) -> None:
    run_id = str(uuid4())
    ended = event(run_id, "ended", ends_run=True)
    with (
        psycopg.connect(module_system.database_url, autocommit=True) as connection,
        gathering_events(module_instance, run_id),
    ):
        connection.execute("ALTER TABLE dagster.event_logs RENAME TO away")
        try:
            module_instance.handle_new_event(event(run_id, "first"))
            with pytest.raises(sa.exc.ProgrammingError):
                module_instance.event_log_storage.store_event(ended)
        finally:
            connection.execute("ALTER TABLE dagster.away RENAME TO event_logs")
        module_instance.handle_new_event(event(run_id, "last"))

    assert stored(module_instance, run_id) == ["first", "ended", "last"]


def test_no_event_is_lost_that_another_thread_stores_while_the_run_ends(
    module_system: System, module_instance: DagsterInstance
) -> None:
    run_id = str(uuid4())
    storage = module_instance.event_log_storage
    late = [str(number) for number in range(4)]

    def insert_waits() -> bool:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchone()
        return row is not None and row[0] == 1

    with (
        psycopg.connect(module_system.database_url, autocommit=True) as connection,
        psycopg.connect(module_system.database_url) as holder,
        ThreadPoolExecutor(1 + len(late)) as threads,
        ExitStack() as run,
    ):
        run.enter_context(gathering_events(module_instance, run_id))
        holder.execute("LOCK TABLE dagster.event_logs IN SHARE MODE")
        storing = [threads.submit(storage.store_event, event(run_id, "ended", ends_run=True))]
        eventually(insert_waits)
        ending = threading.Thread(target=run.pop_all().close)
        ending.start()  # waits for the event that is being stored, and so do the later ones
        storing += [threads.submit(storage.store_event, event(run_id, message)) for message in late]
        holder.rollback()
        ending.join()
        for each in storing:
            each.result()
    assert stored(module_instance, run_id)[0] == "ended"
    assert sorted(stored(module_instance, run_id)[1:]) == late
