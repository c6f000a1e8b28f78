"""The Launchpad's form: the run config of a batch, typed, with each option's default and description.

Dagster checks types here; `BatchOptions` checks values, when the config is turned into options.
"""

from enum import Enum
from typing import Any

from dagster import Config, RunRequest
from pydantic import Field

from batch_pipeline.batches.model import Action, Batch, BlankCells, DuplicateHandling
from batch_pipeline.batches.options import BatchOptions, parse_options
from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.orchestration import tags
from batch_pipeline.records.registry import RESOURCES

# Dagster's Launchpad takes the NAME of an enum's member, so names equal values.
ResourceName = Enum("ResourceName", {name: name for name in RESOURCES})  # type: ignore[misc]


def _described(name: str) -> str:
    return BatchOptions.model_fields[name].description or ""


class BatchConfig(Config):
    """A batch to run: what to do, with which file."""

    organization: str = Field(DEFAULT_ORGANIZATION, description="The tenant whose records these are")
    resource: ResourceName = Field(description="What the items are")
    action: Action = Field(description="What to do with them")
    file: str = Field(description="A key in the configured bucket, such as uploads/default/contact/merge/people.csv")
    name: str | None = Field(None, description=_described("name"))
    duplicate_handling: DuplicateHandling = Field(
        DuplicateHandling.ignore_all, description=_described("duplicate_handling")
    )
    properties: dict[str, str] = Field(default_factory=dict, description=_described("properties"))
    column_mapping: dict[str, str] = Field(default_factory=dict, description=_described("column_mapping"))
    blank_cells: BlankCells | None = Field(None, description=_described("blank_cells"))
    default_region: str | None = Field(None, description=_described("default_region"))
    save_upload: bool = Field(True, description=_described("save_upload"))
    save_result: bool = Field(False, description=_described("save_result"))
    delete_limit: str | None = Field(None, description=_described("delete_limit"))
    allow_empty: bool = Field(False, description=_described("allow_empty"))
    timeout_seconds: int | None = Field(None, description=_described("timeout_seconds"))

    def options(self) -> BatchOptions:
        """The options, their values checked. Raises RefusedError (`invalid_options`)."""
        names = BatchOptions.model_fields
        return parse_options({name: _plain(getattr(self, name)) for name in names})


# Options whose values come from customers, or may: they stay in the ledger. A run reads the ledger, not its config.
_PRIVATE = {"name", "properties", "column_mapping"}


def run_config_of(batch: Batch) -> dict[str, Any]:
    """The run config that shows a batch of the ledger in the Launchpad: what it is, and nothing of its contents."""
    what = {
        "organization": batch.address.organization_id,
        "resource": batch.address.resource,
        "action": batch.address.action.value,
        "file": batch.upload_key,
    }
    options = {name: value for name, value in batch.options.items() if value is not None and name not in _PRIVATE}
    return {"ops": {tags.PARSE: {"config": {**what, **options}}}}


def run_request_key(batch: Batch) -> str:
    """Run key suffix `{arrival}/{attempts}`: unique per requested run of the batch.

    A requested re-run has a new arrival, even if the run before it never began. A run that yielded its slot was an
    attempt, and its batch kept its arrival.
    """
    return f"{batch.arrival}/{batch.attempts}"


def run_tags_of(batch: Batch) -> dict[str, str]:
    """The tags of a batch's runs."""
    return {
        tags.BATCH_ID: batch.id,
        tags.ORGANIZATION: batch.address.organization_id,
        tags.RESOURCE: batch.address.resource,
        tags.TURN: f"{batch.address.organization_id}.{batch.address.resource}",
        tags.REQUEST: run_request_key(batch),
        tags.ACTION: batch.address.action.value,
    }


def run_request_of(batch: Batch) -> RunRequest:
    """The run that a batch awaits. Asking again before it has begun changes nothing: Dagster takes a key but once."""
    return RunRequest(
        run_key=f"{batch.id}/{run_request_key(batch)}",
        run_config=run_config_of(batch),
        tags=run_tags_of(batch),
    )


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
