"""Dagster's tables are beside ours, and its instance has our configuration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy
import yaml
from dagster import DagsterInstance
from sqlalchemy import make_url

from batch_pipeline.dagster_home import (
    LOCATION_NAME,
    MODULE_NAME,
    dagster_database_url,
    dagster_environment,
    has_dagster_tables,
    prepare_dagster_home,
)
from batch_pipeline.database import client_keepalives, connect
from batch_pipeline.errors import SettingError
from batch_pipeline.orchestration import dagster_storage
from batch_pipeline.orchestration.instance import open_instance, upgrade_dagster
from batch_pipeline.settings import Settings, get_settings, load_settings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("database_url", "expected"),
    [
        ("postgresql://u@h/db", {"user": "u", "host": "h", "dbname": "db"}),
        ("postgres://u@h:5433/db", {"user": "u", "host": "h", "port": "5433", "dbname": "db"}),
        ("postgresql://u:p%40s%3A%2F%25s@h/db", {"user": "u", "password": "p@s:/%s", "host": "h", "dbname": "db"}),
        ("postgresql:///db?host=/run/my%20sockets&user=u", {"user": "u", "host": "/run/my sockets", "dbname": "db"}),
        ("postgresql://u@%2Frun%2Fpg/db", {"user": "u", "host": "/run/pg", "dbname": "db"}),
        ("postgresql://u@[::1]:5433/db", {"user": "u", "host": "::1", "port": "5433", "dbname": "db"}),
        ("postgresql://h1:1,h2:2/db?target_session_attrs=any",
         {"host": "h1,h2", "port": "1,2", "dbname": "db", "target_session_attrs": "any"}),
        ("postgresql://u@h/db?sslmode=require&connect_timeout=3",
         {"user": "u", "host": "h", "dbname": "db", "sslmode": "require", "connect_timeout": "3"}),
    ],
)  # fmt: skip
def test_every_part_of_a_libpq_url_reaches_the_driver(database_url: str, expected: dict[str, str]) -> None:
    url = make_url(dagster_database_url(database_url))
    assert url.drivername == "postgresql+psycopg2"
    _, arguments = url.get_dialect()().create_connect_args(url)
    got = {name: str(value) for name, value in arguments.items()}
    assert got.pop("options").endswith(" -csearch_path=dagster")
    assert got == {**{name: str(value) for name, value in client_keepalives().items()}, **expected}


def test_options_of_the_url_are_kept(environment: dict[str, str]) -> None:
    url = dagster_database_url(
        environment["BATCH_DATABASE_URL"] + "&options=-cstatement_timeout%3D7000%20-cwork_mem%3D1MB"
    )
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("statement_timeout", "work_mem", "search_path")
        ]
    engine.dispose()
    assert shown == ["7s", "1MB", "dagster"]


def test_a_malformed_url_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(SettingError) as caught:
        dagster_database_url("postgresql://u:hunter2@h:notaport/db?nonsense=1")
    assert "BATCH_DATABASE_URL" in caught.value.message
    assert "hunter2" not in caught.value.message


def settings_of(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL", "BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_variables_that_are_set_are_unchanged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mine = {"DAGSTER_HOME": "/somewhere", "DAGSTER_POSTGRES_URL": "postgresql+psycopg2://elsewhere/db"}
    assert dagster_environment(settings_of(monkeypatch, **mine), data_dir=tmp_path) == mine


def test_the_home_of_a_checkout_is_in_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = settings_of(monkeypatch, BATCH_DATABASE_URL="postgresql://u@h/db")
    found = dagster_environment(settings, data_dir=tmp_path)
    assert found["DAGSTER_HOME"] == str(REPOSITORY / "dagster_home")
    assert found["DAGSTER_POSTGRES_URL"] == dagster_database_url("postgresql://u@h/db")


def test_the_home_of_a_data_directory_has_the_same_configuration(tmp_path: Path) -> None:
    home = prepare_dagster_home(tmp_path)
    assert (home / "dagster.yaml").read_text() == (REPOSITORY / "dagster_home" / "dagster.yaml").read_text()


def test_workspace_yaml_names_the_location_that_our_commands_name() -> None:
    workspace = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())
    assert workspace["load_from"] == [{"python_module": {"module_name": MODULE_NAME, "location_name": LOCATION_NAME}}]


def test_dagster_accepts_the_configuration_and_keeps_what_it_promises(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Its tables are made on first use; a schema of this test's own keeps them apart.
        url = environment["DAGSTER_POSTGRES_URL"]
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA IF NOT EXISTS dagster_home_test")
        engine.dispose()
        patch.setenv("DAGSTER_POSTGRES_URL", url.replace("search_path%3Ddagster", "search_path%3Ddagster_home_test"))
        with DagsterInstance.from_config(str(prepare_dagster_home(tmp_path))) as instance:
            queue = instance.get_concurrency_config().run_queue_config
            assert queue is not None
            assert queue.tag_concurrency_limits == [
                {"key": "batch/organization", "value": {"applyLimitPerUniqueValue": True}, "limit": 4},
                {"key": ".dagster/batch_turn", "value": {"applyLimitPerUniqueValue": True}, "limit": 2},
            ]
            assert queue.max_concurrent_runs == 10, "one organization must leave room for others"
            get_settings.cache_clear()
            patch.setenv("BATCH_ORGANIZATION_RUNS", "7")
            patch.setenv("BATCH_CONCURRENT_RUNS", "30")
            queue = instance.get_concurrency_config().run_queue_config
            assert queue is not None
            assert (queue.max_concurrent_runs, queue.tag_concurrency_limits[0]["limit"]) == (30, 7)
            get_settings.cache_clear()
            assert instance.run_monitoring_enabled
            assert instance.run_monitoring_poll_interval_seconds < 60
            assert not instance.run_retries_enabled
            assert not instance.telemetry_enabled
            assert not instance.nux_enabled
            assert instance.get_runs_count() == 0


@pytest.fixture
def without_tables(database_url: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a database without Dagster's tables, to which ``os.environ`` leads."""
    with monkeypatch.context() as patch:
        patch.setenv("BATCH_DATABASE_URL", database_url)
        patch.setenv("DAGSTER_POSTGRES_URL", dagster_database_url(database_url))
        get_settings.cache_clear()
        yield database_url
    get_settings.cache_clear()


def test_the_tables_of_another_version_of_dagster_are_upgraded_once(without_tables: str) -> None:
    found = [has_dagster_tables()]
    upgrade_dagster()
    found.append(has_dagster_tables())
    with connect(without_tables, autocommit=True) as connection:
        connection.execute("COMMENT ON SCHEMA dagster IS 'tables of dagster 1.0.0'")
    found.append(has_dagster_tables())
    assert found == [False, True, False]


def test_an_instance_of_recorded_tables_opens_one_connection_and_of_missing_tables_makes_them(
    without_tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade_dagster()
    opened: list[Any] = []
    with monkeypatch.context() as patch:
        # A new process has found nothing and opened nothing.
        patch.setattr(dagster_storage, "_all_shared", {})
        original = psycopg2.connect

        def counted(*given: Any, **named: Any) -> Any:
            opened.append(original)
            return original(*given, **named)

        patch.setattr(psycopg2, "connect", counted)
        with open_instance() as instance:
            assert instance.get_runs_count() == 0
        assert len(opened) == 1

        patch.setattr(dagster_storage, "_all_shared", {})
        with connect(without_tables, autocommit=True) as connection:
            connection.execute("DROP TABLE dagster.runs CASCADE")
        assert not has_dagster_tables()
        with open_instance() as instance:
            assert instance.get_runs_count() == 0
