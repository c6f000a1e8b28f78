"""Declares the asset checks, so that the UI shows them on the asset's page and can evaluate them on request."""

from collections.abc import Iterator

from dagster import (
    AssetCheckEvaluation,
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSpec,
    multi_asset_check,
)

from batch_pipeline.batches.queries import newest_ended
from batch_pipeline.errors import SettingError
from batch_pipeline.orchestration.checks import (
    FRESH,
    NO_UNEXPECTED_DELETES,
    REJECTED_ROWS,
    check_deletes,
    check_fresh,
    check_rejected_rows,
    fresh_hours,
)
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.settings import Settings
from batch_pipeline.system import System, shared_system


def build_checks(settings: Settings) -> list[AssetChecksDefinition]:
    """The checks of each resource. Raises SettingError if `BATCH_FRESH_HOURS` names an unknown resource."""
    for name in settings.fresh_hours:
        if name.rpartition("/")[2] not in RESOURCES:
            raise SettingError(f"BATCH_FRESH_HOURS: {name} names no resource; known are {', '.join(RESOURCES)}")
    return [_checks_of(resource, settings) for resource in RESOURCES]


def _checks_of(resource: str, settings: Settings) -> AssetChecksDefinition:
    table = RESOURCES[resource].table
    specs = [
        AssetCheckSpec(
            REJECTED_ROWS,
            asset=table,
            description=f"A batch rejects at most {settings.rejected_share:.1%} of its items (BATCH_REJECTED_SHARE).",
        ),
        AssetCheckSpec(
            NO_UNEXPECTED_DELETES,
            asset=table,
            description="No batch deletes, or is refused because it would delete, most of an organization's records.",
        ),
    ]
    if hours := fresh_hours(settings, resource):
        expected = ", ".join(f"{organization} every {each:g} h" for organization, each in sorted(hours.items()))
        specs.append(
            AssetCheckSpec(FRESH, asset=table, description=f"Files come in time (BATCH_FRESH_HOURS): {expected}.")
        )

    @multi_asset_check(
        name=f"check_{table}",
        specs=specs,
        can_subset=True,
        description=f"Judges the newest batch of {table}. Each run does so for its own batch.",
    )
    def check(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        wanted = {key.name for key in context.selected_asset_check_keys}
        with shared_system() as system:
            for name in sorted(wanted):
                yield _result(table, name, evaluate(system, resource, name))

    return check


def evaluate(system: System, resource: str, name: str) -> AssetCheckEvaluation | None:
    """The check of the resource's newest batch that it applies to; None without one."""
    if name == FRESH:
        return check_fresh(system, resource)
    batch = newest_ended(system.engine, resource, only_deleting=name == NO_UNEXPECTED_DELETES)
    if batch is None:
        return None
    return (
        check_deletes(system, batch) if name == NO_UNEXPECTED_DELETES else check_rejected_rows(system.settings, batch)
    )


def _result(table: str, name: str, found: AssetCheckEvaluation | None) -> AssetCheckResult:
    if found is None:
        return AssetCheckResult(
            passed=True, asset_key=table, check_name=name, description="There is no batch to judge yet."
        )
    return AssetCheckResult(
        passed=found.passed,
        asset_key=found.asset_key,
        check_name=name,
        severity=found.severity,
        description=found.description,
        metadata=found.metadata,
    )
