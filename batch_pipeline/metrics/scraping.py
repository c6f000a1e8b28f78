"""Reads the figures, at most once in a few seconds, and renders them."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from batch_pipeline.batches.counts import LedgerFigures, read_figures
from batch_pipeline.database import borrowed, translating_outages
from batch_pipeline.errors import BatchError, UnavailableError
from batch_pipeline.metrics.families import dagster_families, ledger_families

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from batch_pipeline.orchestration.figures import DagsterFigures

# Not OpenMetrics: there a counter and a gauge can't be named `batch_batches_total` and `batch_batches`.
MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
CACHE_SECONDS = 5.0  # a scrape within this time gets the same figures, or the same error
STATEMENT_SECONDS = 5.0  # Prometheus gives a scrape 10 s by default


@dataclass(frozen=True)
class Figures(Collector):
    """All figures at one time, and the calls as they are now."""

    ledger: LedgerFigures
    dagster: "DagsterFigures"
    calls: Collector

    def collect(self) -> Iterator[Metric]:
        """The metric families."""
        yield from ledger_families(self.ledger)
        yield from dagster_families(self.dagster)
        yield from self.calls.collect()


class Scraper:
    """Renders the figures of a database. Thread-safe; one thread reads, others wait for its result."""

    def __init__(self, engine: sa.Engine, calls: Collector) -> None:
        self._engine = engine
        self._calls = calls
        self._lock = Lock()
        self._opened = ExitStack()
        self._instance: DagsterInstance | None = None
        self._result: Figures | BatchError | None = None
        self._read_at = 0.0

    def render(self) -> bytes:
        """The metrics in Prometheus' text format, of `MEDIA_TYPE`.

        Raises UnavailableError if a database can't be reached or takes longer than `STATEMENT_SECONDS`, and
        SettingError if its tables are missing.
        """
        return generate_latest(self._figures())

    def close(self) -> None:
        """Closes the connections to Dagster's database."""
        with self._lock:
            self._instance = None
            self._opened.close()

    def _figures(self) -> Figures:
        with self._lock:
            if self._result is None or time.monotonic() - self._read_at >= CACHE_SECONDS:
                try:
                    self._result = Figures(self._read_ledger(), self._read_dagster(), self._calls)
                except BatchError as error:
                    self._result = error
                self._read_at = time.monotonic()
            if isinstance(self._result, BatchError):
                raise self._result
            return self._result

    def _read_ledger(self) -> LedgerFigures:
        try:
            with (
                translating_outages(),
                borrowed(self._engine, statement_timeout=f"{STATEMENT_SECONDS:.0f}s") as connection,
            ):
                return read_figures(connection)
        except psycopg.errors.QueryCanceled as error:
            raise UnavailableError(
                "database", f"The figures could not be read within {STATEMENT_SECONDS:.0f} s: the database is too busy."
            ) from error

    def _read_dagster(self) -> "DagsterFigures":
        """Reads by the instance of the previous scrape. Opens another one after an error."""
        # Imported here, because most processes of the API are never scraped, and Dagster takes most of a second.
        from batch_pipeline.orchestration.figures import read_dagster_figures, translating_dagster_outages
        from batch_pipeline.orchestration.instance import open_migrated_instance

        try:
            with translating_dagster_outages():
                if self._instance is None:
                    opening = open_migrated_instance(statement_seconds=STATEMENT_SECONDS)
                    self._instance = self._opened.enter_context(opening)
                return read_dagster_figures(self._instance)
        except BaseException:
            self._instance = None
            self._opened.close()
            raise
