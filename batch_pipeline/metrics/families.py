"""Turns figures into Prometheus' metric families. `docs/monitoring.md` describes each; a test compares the two."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from batch_pipeline.batches.counts import BUCKET_SECONDS, Histogram, LedgerFigures
from batch_pipeline.batches.model import PhaseName

if TYPE_CHECKING:
    from batch_pipeline.orchestration.figures import DagsterFigures

_NOTHING = Histogram({}, 0.0)


def ledger_families(figures: LedgerFigures) -> Iterator[Metric]:
    """The metrics of the ledger's database."""
    yield _counter(
        "batch_batches_total",
        "Batches that reached a status, each time they did; `reason` is the code of a bad end.",
        ("resource", "action", "status", "reason"),
        figures.batches,
    )
    yield _counter(
        "batch_rows_total", "Items of completed batches, by what became of them.", ("resource", "outcome"), figures.rows
    )
    phases = HistogramMetricFamily(
        "batch_phase_seconds", "Seconds that phases took, completed or failed, without waits.", labels=("phase",)
    )
    for phase in PhaseName:
        _observe(phases, (phase.value,), figures.phases.get(phase.value, _NOTHING))
    yield phases
    waits = HistogramMetricFamily(
        "batch_turn_wait_seconds",
        "Seconds from status queued to processing: the wait for the turn, and for a slot if the run yielded its own.",
        labels=(),
    )
    _observe(waits, (), figures.turn_waits)
    yield waits
    yield _gauge("batch_batches", "Batches that have the status now.", "status", figures.present)
    yield _gauge(
        "batch_oldest_waiting_seconds",
        "Seconds that the batch with this status has waited that waits longest for the system (requested: its run; "
        "queued: its turn) or for somebody (planned); 0 without one. A batch without its file is not counted.",
        "status",
        figures.waiting_seconds,
    )
    yield GaugeMetricFamily(
        "batch_inbox_files", "Files that the last look at the inbox left there.", figures.inbox_files
    )
    yield GaugeMetricFamily(
        "batch_inbox_oldest_seconds",
        "Seconds since the oldest of these files was stored; 0 without one.",
        figures.inbox_oldest_seconds,
    )
    yield GaugeMetricFamily(
        "batch_webhook_pending", "Deliveries to webhooks that are neither done nor given up.", figures.webhook_pending
    )
    yield GaugeMetricFamily(
        "batch_staging_bytes", "Size of the staging tables with their indexes.", figures.staging_bytes
    )


def dagster_families(figures: "DagsterFigures") -> Iterator[Metric]:
    """The metrics of Dagster's database."""
    yield _gauge(
        "batch_sensor_tick_age_seconds",
        "Seconds since the sensor's last tick that did not fail; +Inf without one.",
        "sensor",
        figures.tick_ages,
    )
    yield _gauge(
        "batch_daemon_heartbeat_age_seconds",
        "Seconds since the last heartbeat of Dagster's daemon, which comes every 30 s, the scheduler's every minute; "
        "+Inf without one.",
        "daemon",
        figures.heartbeat_ages,
    )
    if figures.event_log_bytes is not None:
        yield GaugeMetricFamily(
            "batch_event_log_bytes", "Size of Dagster's events with their indexes.", figures.event_log_bytes
        )


def _counter(name: str, text: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in sorted(counts.items()):
        family.add_metric(values, number)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


def _observe(family: HistogramMetricFamily, labels: Sequence[str], observed: Histogram) -> None:
    """Adds the histogram; Prometheus' buckets are cumulated."""
    cumulated = 0
    buckets: list[tuple[str, float]] = []
    for bound in (*BUCKET_SECONDS, math.inf):
        cumulated += observed.buckets.get(bound, 0)
        buckets.append(("+Inf" if math.isinf(bound) else str(bound), cumulated))
    family.add_metric(labels, buckets, observed.total_seconds)
