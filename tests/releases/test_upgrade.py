"""An earlier release is upgraded with its data: its open batches end as they would have ended there."""

import json
import tarfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backups import restored
from recorded import finish, state_of

from batch_pipeline import migrations
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.orchestration.reconciling import reconcile

RELEASES = sorted(path.name.removesuffix(".tar.gz") for path in Path(__file__).parent.glob("*.tar.gz"))


@pytest.mark.parametrize("release", RELEASES)
def test_an_upgraded_release_finishes_its_batches_as_it_would_have_itself(
    release: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_CHANGES_DAYS", str(100 * 365))  # it is undone however long ago it was recorded
    with tarfile.open(Path(__file__).with_name(f"{release}.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    recorded: dict[str, Any] = json.loads((tmp_path / "recorded.json").read_text())
    ids: dict[str, str] = recorded["ids"]

    with restored(tmp_path, environment) as system:
        with psycopg.connect(system.database_url) as connection:  # nor has the plan expired
            connection.execute("UPDATE batches SET plan_expires_at = now() + interval '1 day' WHERE status = 'planned'")
        migrations.upgrade(system.database_url)
        upgrade_dagster()

        assert_contains(state_of(system, ids), recorded["at_the_backup"])
        with open_instance(in_process=True) as instance:
            (lost,) = reconcile(system, instance)
            assert (lost.id, lost.status, lost.reason and lost.reason.code) == (ids["killed"], "failed", "worker_lost")
            assert_contains(finish(system, instance, ids), recorded["finished"])


def assert_contains(found: Any, expected: Any) -> None:
    """`found` equals `expected`, except that its objects may have further keys: columns that are new."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        for key, value in expected.items():
            assert_contains(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_contains(one, other)
    else:
        assert found == expected
