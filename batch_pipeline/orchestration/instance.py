"""Dagster's instance: its storage's schema, and how this process opens it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from dagster import DagsterInstance

from batch_pipeline.dagster_home import DAGSTER_SCHEMA
from batch_pipeline.database import connect
from batch_pipeline.errors import SettingError, UnavailableError
from batch_pipeline.settings import get_settings


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """The instance of DAGSTER_HOME. Raises SettingError where it is not set, UnavailableError in an outage."""
    if not os.environ.get("DAGSTER_HOME"):
        raise SettingError("DAGSTER_HOME is not set: name the folder that has dagster.yaml")
    try:
        instance = DagsterInstance.get()
    except sa.exc.OperationalError as error:
        raise UnavailableError(
            "database", "Dagster's database can't be reached: check DAGSTER_POSTGRES_URL."
        ) from error
    with instance:
        yield instance


def upgrade_dagster() -> None:
    """Makes Dagster's schema and tables, or brings them to this version of Dagster."""
    settings = get_settings()
    if settings.database_url is not None:
        with connect(settings.require_database_url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {DAGSTER_SCHEMA}")
    with open_instance() as instance:
        instance.upgrade()
