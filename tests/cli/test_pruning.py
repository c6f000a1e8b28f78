"""`prune`: tells what would go, and lets it go."""

import json

import psycopg
from command_line import CommandLine, only_line

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Action, Reason
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store


def test_prune_shows_what_is_old_and_removes_just_that(
    cli: CommandLine, deployment: dict[str, str], ledger: Ledger, store: Store, organization: str
) -> None:
    ids = []
    for age in ("40 days", "20 days"):
        batch, _ = ledger.create(
            organization_id=organization,
            resource="contact",
            action=Action.merge,
            name="people.csv",
            options=BatchOptions(),
        )
        store.write(keys.upload(batch.id, "people.csv", saved=True), b"name\n")
        ledger.end(batch.id, BatchStatus.failed, Reason("missing_columns", "No."), has_upload_file=True)
        with psycopg.connect(deployment["BATCH_DATABASE_URL"]) as connection:
            connection.execute("UPDATE batches SET updated_at = now() - %s::interval WHERE id = %s", (age, batch.id))
        ids.append(batch.id)
    expected = {"batches": 1, "files": 1, "bytes": 5, "runs": 0, "more": False}

    shown = cli("prune", "--dry-run", "--json")
    assert json.loads(shown.stdout) == {"dry_run": True, **expected}
    told = cli("prune", "--dry-run")
    assert only_line(told.stdout).startswith(
        "Would go: 1 files (5 bytes) of 1 batches that ended more than 30 days ago"
    )
    assert [ledger.get(batch_id).has_upload_file for batch_id in ids] == [True, True]

    done = cli("prune", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"dry_run": False, **expected})
    assert [ledger.get(batch_id).has_upload_file for batch_id in ids] == [False, True]
    assert [bool(store.list(f"{keys.batch_folder(batch_id)}/")) for batch_id in ids] == [False, True]
    refused = cli("retry", ids[0], "--organization", organization)
    assert refused.returncode == 2


def test_prune_with_a_wrong_setting_says_so(cli: CommandLine) -> None:
    refused = cli.process("prune", BATCH_RETENTION_DAYS="0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "BATCH_RETENTION_DAYS" in only_line(refused.stderr)
