"""Records this release for `test_upgrade.py`: a system with batches in every state, and what becomes of them here.

Run it on a release, before its schema changes:
`PYTHONPATH=tests python tests/releases/record.py tests/releases/schema-0017.tar.gz`.
The archive has a backup (database.sql, objects/) and recorded.json: the ids of the batches, the state at the backup,
and what the release itself made of it afterwards.
"""

import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from backups import back_up
from batch_runs import Row, arrived, as_csv, awaiting_upload
from dagster import DagsterInstance
from driving import run_attempt
from killing import KillPoint, run_until_killed
from recorded import finish, state_of

from batch_pipeline import migrations
from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.local.servers import embedded_servers
from batch_pipeline.orchestration.execute import execute_batch
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System, open_system

SETTINGS = {"BATCH_CHUNK_ROWS": "3", "BATCH_DATABASE_WRITERS": "1"}
IN_THE_SECOND_CHUNK = KillPoint("batch_pipeline.loading.chunks:ChunkWriter.write", call=2)


def main() -> None:
    """Writes the archive that the first argument names."""
    with tempfile.TemporaryDirectory(prefix="batch-pipeline-record-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded_servers(folder / "servers") as servers:
            os.environ |= {**servers.environment, **SETTINGS}
            get_settings.cache_clear()
            migrations.upgrade(servers.environment["BATCH_DATABASE_URL"])
            upgrade_dagster()
            with open_system() as system, open_instance(in_process=True) as instance:
                ids = make_batches(system, instance)
                backup = folder / "backup"
                backup.mkdir()
                back_up(system, backup)
                recorded = {"ids": ids, "at_the_backup": state_of(system, ids)}
                reconcile(system, instance)
                recorded["finished"] = finish(system, instance, ids)
        (backup / "recorded.json").write_text(json.dumps(recorded, indent=1, sort_keys=True))
        with tarfile.open(sys.argv[1], "w:gz") as archive:
            for path in sorted(backup.iterdir()):
                archive.add(path, path.name, filter=_without_owner)


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    return member.replace(uid=0, gid=0, uname="", gname="", deep=False)


def make_batches(system: System, instance: DagsterInstance) -> dict[str, str]:
    """Batches in every state that lasts; returns their ids by a short name."""
    organization = create_organization(system.engine, "acme", "US").id

    def accepted(rows: list[Row], *, resource: str = "contact", **options: Any) -> Batch:
        flat = resource == "contact"
        payload = as_csv(rows) if flat else json.dumps(rows).encode()
        name = f"{resource}s.{'csv' if flat else 'json'}"
        return arrived(system, organization, payload, name=name, resource=resource, **options)

    def done(rows: list[Row], **options: Any) -> str:
        return execute_batch(system, instance, accepted(rows, **options)).id

    def people(first: int, last: int, **fields: str) -> list[Row]:
        return [{"external_id": f"crm-{n}", "name": f"Person {n}", "notes": "", **fields} for n in range(first, last)]

    ids = {
        "first": done([*people(0, 8, notes="first"), {"name": "", "notes": "no name"}], save_result=True),
        "second": done(people(2, 6, notes="second")),
        "groups": done(
            [{"external_id": "g1", "name": "North", "children": ["crm-0", "crm-1", "crm-2"], "primary": ["crm-0"]}],
            resource="group",
        ),
        "shipments": done(
            [{"external_id": "s1", "tracking_number": "AB12345678", "sender": {"name": "Ada"}}], resource="shipment"
        ),
        "refused": run_attempt(system, accepted([{"nom": "Ada"}])).id,  # without Dagster, which records a stack trace
        "planned": done(people(6, 10, notes="planned"), plan_only=True),
        "killed": accepted(people(4, 14, address="1 Main Street"), save_result=True).id,
    }
    if not run_until_killed(ids["killed"], IN_THE_SECOND_CHUNK):
        raise RuntimeError("the batch ended before it could be killed")
    ids["waiting"] = accepted(people(12, 20, notes="waiting"), starter=Starter.launcher).id
    ids["upload"] = awaiting_upload(system, organization, seconds=100 * 365 * 86400).id
    return ids


if __name__ == "__main__":
    main()
