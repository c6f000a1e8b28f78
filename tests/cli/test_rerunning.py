"""`retry` of many batches and of rejected items, and `cancel`: what they do, print, and exit with."""

import json
import signal
from datetime import UTC, datetime

import psycopg
import pytest
import sqlalchemy as sa
from batch_runs import accepted
from command_line import (
    MERGE,
    PEOPLE,
    CommandLine,
    batch_that_never_starts,
    finished,
    newest,
    only_line,
    status_of,
    wait_for,
    without_progress,
)

from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store

CANCELLED = Reason("cancelled", "Stopped before it began.")


class Failing:
    """Makes batches that wait, or ended before they began, for a reason that is no longer there."""

    def __init__(self, ledger: Ledger, store: Store, organization: str) -> None:
        self.ledger = ledger
        self.store = store
        self.organization = organization

    def waiting(self, text: str, name: str = "people.csv") -> Batch:
        batch_id = new_batch_id()
        key = keys.upload(batch_id, name, saved=True)
        self.store.write(key, text.encode())
        return accepted(self.ledger.engine, self.organization, key=key, id=batch_id, name=name)

    def failed(self, text: str, status: BatchStatus = BatchStatus.failed) -> str:
        return self.ledger.end(self.waiting(text).id, status, CANCELLED).id


@pytest.fixture
def failing(ledger: Ledger, store: Store, organization: str) -> Failing:
    return Failing(ledger, store, organization)


def test_rejected_items_are_retried_as_a_new_batch_after_the_cause_is_fixed(
    cli: CommandLine, organization: str
) -> None:
    mine = ("--organization", organization, "--json")
    doubles = "external_id,name,email\n1,Ada,ada@example.com\n2,Ada,ada@example.com\n3,Alan,alan@example.com\n"
    listed = json.loads(cli("run", cli.file("doubles.csv", doubles), *MERGE, *mine, "--save-result").stdout)
    notes = cli.file("notes.csv", "email,notes\nada@example.com,=first\nalan@example.com,second\n")
    noted = json.loads(cli("run", notes, *MERGE, *mine).stdout)
    assert (noted["stats"]["updated"], noted["stats"]["rejected"]) == (1, 1)

    ids = {each["external_id"]: each["id"] for each in json.loads(cli("result", listed["id"], *mine[:2]).stdout)}
    gone = cli.file("gone.csv", f"id\n{ids['2']}\n")
    deleted = cli("run", gone, "--resource", "contact", "--action", "delete", *mine)
    assert json.loads(deleted.stdout)["stats"]["deleted"] == 1, deleted.stderr
    again = cli("retry", noted["id"], "--failed-rows", *mine)

    assert (again.returncode, without_progress(again.stderr)) == (0, [])
    batch = json.loads(again.stdout)
    assert batch["id"] != noted["id"]
    assert (batch["retry_of"], batch["status"], batch["attempts"]) == (noted["id"], "completed", 1)
    assert batch["stats"] == {**dict.fromkeys(batch["stats"], 0), "updated": 1}


def test_without_rejected_items_there_is_nothing_to_retry(
    cli: CommandLine, ledger: Ledger, failing: Failing, organization: str
) -> None:
    batch = failing.failed(PEOPLE)
    ended = cli("retry", batch, "--failed-rows", "--organization", organization, "--json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no rejected items" in only_line(ended.stderr)
    assert [each.id for each in ledger.find(organization_id=organization)] == [batch]


def test_all_failed_batches_run_again_in_the_order_of_arrival(
    cli: CommandLine, ledger: Ledger, failing: Failing, organization: str
) -> None:
    old, new = failing.failed("name,email\nOld,ada@example.com\n"), failing.failed("name,email\nNew,ada@example.com\n")
    timed_out = failing.failed("name\nElse\n", BatchStatus.timed_out)
    # Its place in line is behind the newer one's now, but its data are older all the same.
    ledger.request_rerun(old, Starter.caller)
    ledger.end(old, BatchStatus.failed, CANCELLED)
    without_payload = accepted(ledger.engine, organization, name="none")
    ledger.end(without_payload.id, BatchStatus.failed, CANCELLED)
    mine = ("--organization", organization)

    ended = cli("retry", "--status", "failed", "--resource", "contact", "--since", "1h", *mine, "--json")

    assert ended.returncode == 0, ended.stderr
    batches = json.loads(ended.stdout)
    assert [batch["id"] for batch in batches] == [old, new]
    assert [(batch["stats"]["created"], batch["stats"]["updated"]) for batch in batches] == [(1, 0), (0, 1)]
    assert ledger.get(timed_out).status == "timed_out"

    late = cli("retry", "--status", "timed_out", *mine)
    assert late.returncode == 0, late.stderr
    assert timed_out in late.stdout
    none_left = cli("retry", "--status", "failed", *mine, "--json")
    assert (none_left.returncode, json.loads(none_left.stdout), without_progress(none_left.stderr)) == (0, [], [])


def test_since_selects_later_failures_and_a_repeated_failure_exits_with_1(
    cli: CommandLine, ledger: Ledger, failing: Failing, organization: str
) -> None:
    earlier = failing.failed(PEOPLE)
    moment = datetime.now(UTC)
    bad, good = failing.failed("name,colour\nAda,blue\n"), failing.failed(PEOPLE)

    ended = cli("retry", "--status", "failed", "--since", moment.isoformat(), "--organization", organization)

    assert ended.returncode == 1
    for shown in (bad, "failed unknown_columns", good, "completed"):
        assert shown in ended.stdout
    assert earlier not in ended.stdout
    assert [line.partition(":")[0] for line in without_progress(ended.stderr)] == ["1 of 2", "2 of 2"]
    assert [ledger.get(each).attempts for each in (earlier, bad, good)] == [0, 1, 1]


def test_ctrl_c_ends_the_running_batch_and_leaves_the_next_unchanged(
    cli: CommandLine, ledger: Ledger, failing: Failing, organization: str
) -> None:
    first, second = failing.failed(PEOPLE), failing.failed(PEOPLE)
    blocking = batch_that_never_starts(ledger, organization)
    with cli.start("retry", "--status", "failed", "--organization", organization, "--json") as process:
        wait_for(lambda: ledger.get(first).status == "queued", process)
        process.send_signal(signal.SIGINT)
        ended = finished(process)
    ledger.end(blocking, BatchStatus.failed, CANCELLED)

    assert ended.returncode == 1
    assert [(batch["id"], batch["reason"]["code"]) for batch in json.loads(ended.stdout)] == [(first, "cancelled")]
    assert "1 of 2 batches were not run" in ended.stderr
    assert (ledger.get(second).status, ledger.get(second).attempts) == ("failed", 0)


def test_cancel_stops_a_batch_that_another_process_runs_and_a_retry_does_the_rest(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    mine = ("--organization", organization, "--json")
    people = "".join(f"Person {number},p{number}@example.com\n" for number in range(200))
    upload = cli.file("many.csv", f"name,email\n{people}")
    with (
        psycopg.connect(cli.environment["BATCH_DATABASE_URL"]) as holding_up,
        cli.start("run", upload, *MERGE, *mine, BATCH_CHUNK_ROWS="50", BATCH_DATABASE_WRITERS="1") as process,
    ):
        # Its first chunk can't end before cancelling waits for that, however fast the one and slow the other.
        holding_up.execute("LOCK TABLE contacts IN SHARE MODE")
        wait_for(lambda: _somebody_waits_to(ledger, "%contacts%"), process)
        running = newest(ledger, organization)
        assert running is not None
        with cli.start("cancel", running.id, *mine) as cancelling:
            wait_for(lambda: _somebody_waits_to(ledger, "%pg_advisory_xact_lock(%"), cancelling)
            holding_up.rollback()
            cancelled = finished(cancelling)
        ended = finished(process)

    assert (cancelled.returncode, without_progress(cancelled.stderr)) == (0, [])
    batch = json.loads(cancelled.stdout)
    assert (batch["status"], batch["reason"]["code"]) == ("failed", "cancelled")
    written = sa.text("SELECT count(*) FROM contacts WHERE organization_id = :organization")
    with ledger.engine.connect() as connection:
        assert connection.execute(written, {"organization": organization}).scalar_one() == 50  # the chunk at work
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["reason"]["code"] == "cancelled"
    assert "cancelled" in only_line(ended.stderr)

    again = cli("retry", running.id, *mine)
    assert again.returncode == 0, again.stderr
    stats = json.loads(again.stdout)["stats"]
    assert (stats["created"], stats["updated"], stats["unchanged"]) == (200, 0, 0)


def test_cancel_removes_a_waiting_batch_from_the_queue(cli: CommandLine, ledger: Ledger, organization: str) -> None:
    mine = ("--organization", organization)
    first = batch_that_never_starts(ledger, organization)
    with cli.start("run", cli.file("people.csv", PEOPLE), *MERGE, *mine) as process:
        wait_for(lambda: status_of(ledger, organization) == "queued", process)
        waiting = newest(ledger, organization)
        assert waiting is not None
        shown = cli("cancel", waiting.id, *mine)
        ended = finished(process)

    assert shown.returncode == 0
    assert "cancelled: " in shown.stdout
    assert (ended.returncode, ledger.get(waiting.id).status) == (1, "failed")
    assert ledger.get(first).status == "requested"


def test_an_ended_batch_can_not_be_cancelled_but_its_requested_re_run_can(
    cli: CommandLine, ledger: Ledger, failing: Failing, organization: str
) -> None:
    batch = failing.failed(PEOPLE)
    ledger.request_rerun(batch, Starter.launcher)

    given_up = cli("cancel", batch, "--organization", organization, "--json")
    assert (given_up.returncode, json.loads(given_up.stdout)["status"]) == (0, "failed")
    assert ledger.get(batch).awaits_run is None

    ended = cli("cancel", batch, "--organization", organization, "--json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "has ended already: it is failed" in only_line(ended.stderr)


def _somebody_waits_to(ledger: Ledger, statement: str) -> bool:
    """Whether a session of the database waits for a lock with a statement like this."""
    waiting = sa.text(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event_type = 'Lock' AND query ILIKE :statement)"
    )
    with ledger.engine.connect() as connection:
        return bool(connection.execute(waiting, {"statement": statement}).scalar_one())
