"""Figures for monitoring: equal to a count over the whole ledger, and never smaller than before."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from itertools import pairwise

import pytest
from batch_runs import Runner, accepted, new_organization

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.counts import BUCKET_SECONDS, LedgerFigures, fold_counts, read_figures, record_inbox
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Action, Starter
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.database import borrowed, connect, create_engine
from batch_pipeline.system import System

WHY = Reason("worker_lost", "The test says so.")
KIND = "coalesce(resource, ''), coalesce(action, '')"


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    engine = create_engine(database_url)
    yield Ledger(engine)
    engine.dispose()


def figures(ledger: Ledger) -> LedgerFigures:
    with borrowed(ledger.engine) as connection:
        return read_figures(connection)


def counted(ledger: Ledger) -> tuple[dict[tuple[str, ...], int], dict[str, int], dict[tuple[str, ...], int]]:
    """The same by reading every batch: transitions by kind, batches by status, items of completed batches."""
    with borrowed(ledger.engine) as connection:
        moved = connection.execute(
            f"SELECT {KIND}, after, coalesce(t.reason ->> 'code', ''), count(*)"  # noqa: S608 - a constant
            " FROM batch_transitions t JOIN batches ON id = batch_id GROUP BY 1, 2, 3, 4"
        ).fetchall()
        present = connection.execute("SELECT status, count(*) FROM batches GROUP BY 1").fetchall()
        rows = connection.execute(
            "SELECT resource, key, sum(value::bigint)::bigint FROM batches, jsonb_each_text(stats)"
            " WHERE status = 'completed' AND value <> '0' GROUP BY 1, 2"
        ).fetchall()
    return (
        {tuple(labels): number for *labels, number in moved},
        {status.value: 0 for status in BatchStatus} | dict(present),
        {(resource, outcome): number for resource, outcome, number in rows},
    )


def test_the_figures_equal_a_count_over_the_ledger_and_stay_when_batches_go(system: System) -> None:
    ledger = system.ledger
    run = Runner(system, new_organization(system))
    done = run.csv({"name": "Ann"}, {"name": "Bo", "email": "nowhere"})
    assert done.status is BatchStatus.completed
    failed = run.csv({"colour": "red"})
    ledger.request_rerun(failed.id, Starter.launcher)
    accept(
        system.engine,
        NewBatch(new_batch_id(), None, None, None, "x.csv", BatchOptions()),
        payload=ArrivedPayload("k", saved=True, starter=Starter.launcher),
        refused=Reason("unknown_folder", "The test says so."),
    )
    run.csv({"name": "Ann"}, plan_only=True)
    accepted(system.engine, run.organization_id)

    found = figures(ledger)

    assert (found.batches, found.present, found.rows) == counted(ledger)
    assert found.batches["", "", "failed", "unknown_folder"] == 1
    assert found.batches["contact", "merge", "failed", "unknown_columns"] == 1
    assert found.rows == {("contact", "created"): 1, ("contact", "rejected"): 1}
    assert {phase: sum(observed.buckets.values()) for phase, observed in found.phases.items()} == {
        "parsing": 3,
        "validation": 2,
        "processing": 1,
    }
    seconds = [phase.seconds or 0 for phase in done.phases if phase.name == "processing"]
    assert found.phases["processing"].total_seconds == pytest.approx(sum(seconds), abs=1e-3)
    assert sum(found.turn_waits.buckets.values()) == 1

    fold_counts(system.engine)
    still(figures(ledger), found)
    with borrowed(system.engine) as connection:
        connection.execute("DELETE FROM batches WHERE id IN (%s, %s)", (done.id, failed.id))
    rest = figures(ledger)
    assert rest.present == counted(ledger)[1]
    still(replace(rest, present=found.present), found)


def still(after: LedgerFigures, before: LedgerFigures) -> None:
    """Nothing but the passing of time is different."""
    assert replace(after, waiting_seconds={}) == replace(before, waiting_seconds={})


def test_batches_of_before_the_counts_are_counted_by_the_migration(system: System) -> None:
    run = Runner(system, new_organization(system))
    run.csv({"name": "Ann"}, {"name": "Bo", "email": "nowhere"})
    run.csv({"colour": "red"})
    before = figures(system.ledger)
    with connect(system.database_url, autocommit=True) as connection:
        connection.execute("DROP VIEW oldest_waiting")
        connection.execute("DROP TABLE metric_counts, inbox_state")
        connection.execute("DROP INDEX batches_in_line")
        connection.execute("DROP FUNCTION count_batch_status, count_ended_phases CASCADE")
        connection.execute("DROP FUNCTION histogram_bucket")

        for statement in import_module("batch_pipeline.migrations.versions.0020_metrics").STATEMENTS:
            connection.execute(statement)

    after = figures(system.ledger)

    # The ledger's times of two transitions are those of their transactions' starts.
    assert sum(after.turn_waits.buckets.values()) == sum(before.turn_waits.buckets.values())
    still(replace(after, turn_waits=before.turn_waits), before)


def test_counts_never_go_down_and_none_is_lost_while_they_are_folded(ledger: Ledger) -> None:
    ended = threading.Event()
    seen: list[Counter[str]] = []

    def change_batches(_: int) -> None:
        for _ in range(30):
            batch = accepted(ledger.engine, "default", key="k")
            ledger.end(batch.id, BatchStatus.failed, WHY)

    def fold() -> None:
        while not ended.is_set():
            fold_counts(ledger.engine)

    def read() -> None:
        while not ended.is_set():
            found = figures(ledger)
            seen.append(Counter({"/".join(labels): number for labels, number in found.batches.items()}))

    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(fold), pool.submit(fold), pool.submit(read)]
        for change in [pool.submit(change_batches, number) for number in range(3)]:
            change.result()
        ended.set()
        for other in others:
            other.result()

    assert all(earlier <= later for earlier, later in pairwise(seen))
    assert figures(ledger).batches == {
        ("contact", "merge", "requested", ""): 90,
        ("contact", "merge", "failed", "worker_lost"): 90,
    }


def test_the_longest_wait_is_that_of_the_first_batch_in_the_order_of_arrival(ledger: Ledger) -> None:
    assert figures(ledger).waiting_seconds == {"requested": 0, "queued": 0, "planned": 0}
    accepted(ledger.engine, "default")  # waits for its sender, not for us
    first, second = (accepted(ledger.engine, "default", key="k") for _ in range(2))
    _let_pass(ledger, first.id, 500)
    _let_pass(ledger, second.id, 100)
    assert 500 <= figures(ledger).waiting_seconds["requested"] < 600

    ledger.end(first.id, BatchStatus.failed, WHY)
    assert 100 <= figures(ledger).waiting_seconds["requested"] < 200
    ledger.request_rerun(first.id, Starter.launcher)  # waits anew
    ledger.end(second.id, BatchStatus.failed, WHY)
    assert figures(ledger).waiting_seconds["requested"] < 60

    third = accepted(ledger.engine, "default", key="k", action=Action.delete)
    ledger.begin_attempt(third.id, "run")
    ledger.transition(third.id, "run", BatchStatus.planned, plan_expires_at=datetime.now(UTC) + timedelta(hours=1))
    _let_pass(ledger, third.id, 700)
    assert 700 <= figures(ledger).waiting_seconds["planned"] < 800


def _let_pass(ledger: Ledger, batch_id: str, seconds: int) -> None:
    with borrowed(ledger.engine) as connection:
        connection.execute(
            "UPDATE batches SET arrived_at = arrived_at - make_interval(secs => %s) WHERE id = %s", (seconds, batch_id)
        )
        connection.execute(
            "UPDATE batch_transitions SET at = at - make_interval(secs => %s) WHERE batch_id = %s", (seconds, batch_id)
        )


def test_a_wait_and_a_phase_fall_into_the_bucket_of_the_next_bound(ledger: Ledger) -> None:
    with borrowed(ledger.engine) as connection:
        bounds = [
            float(str(one(connection.execute("SELECT histogram_bucket(%s)", (bound,))))) for bound in BUCKET_SECONDS
        ]
        beyond = one(connection.execute("SELECT histogram_bucket(%s)", (BUCKET_SECONDS[-1] + 0.001,)))
        between = one(connection.execute("SELECT histogram_bucket(0.3)"))

    assert tuple(bounds) == BUCKET_SECONDS
    assert (beyond, between) == ("+Inf", "0.5")


def one(found: object) -> object:
    row = found.fetchone()
    return row[0]


def test_the_inbox_is_what_the_last_look_left_there(ledger: Ledger) -> None:
    assert (figures(ledger).inbox_files, figures(ledger).inbox_oldest_seconds) == (0, 0)
    now = datetime.now(UTC)
    record_inbox(ledger.engine, [now - timedelta(seconds=50), now - timedelta(seconds=900), now])
    found = figures(ledger)
    assert found.inbox_files == 3
    assert 900 <= found.inbox_oldest_seconds < 1000
    with borrowed(ledger.engine) as connection:
        version = connection.execute("SELECT ctid, xmin FROM inbox_state").fetchall()
    record_inbox(ledger.engine, [now, now - timedelta(seconds=900), now])
    with borrowed(ledger.engine) as connection:
        assert connection.execute("SELECT ctid, xmin FROM inbox_state").fetchall() == version  # nothing was written

    record_inbox(ledger.engine, [])
    assert (figures(ledger).inbox_files, figures(ledger).inbox_oldest_seconds) == (0, 0)


def test_pending_deliveries_to_webhooks_are_counted(ledger: Ledger) -> None:
    assert figures(ledger).webhook_pending == 0
    with borrowed(ledger.engine) as connection:
        connection.execute(
            "INSERT INTO webhook_deliveries (id, webhook_id, event_id, give_up_at, due_at)"
            " VALUES ('a', 'w', 'e', now(), now()), ('b', 'w', 'e', now(), now() + '1 day'),"
            " ('c', 'w', 'e', now(), NULL)"
        )

    assert figures(ledger).webhook_pending == 2
