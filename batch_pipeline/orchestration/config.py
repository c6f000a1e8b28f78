"""The typed run config of a batch, which is the Launchpad's form, and the run request of its runs.

Dagster checks the config's types; `BatchOptions` checks the values when the config is converted into options.
"""

from enum import Enum
from typing import Any

from dagster import Config, RunRequest
from pydantic import Field

from batch_pipeline.batches.model import Batch, BlankCells, DuplicateHandling, IfChanged, UnknownColumns, UploadAction
from batch_pipeline.batches.options import BatchOptions, parse_options
from batch_pipeline.batches.organizations import DEFAULT_ORGANIZATION
from batch_pipeline.orchestration import tags
from batch_pipeline.orchestration.requested_runs import job_name_of, run_config_of, run_key_of, run_tags_of
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.storage import keys

# The Launchpad takes the NAME of an enum's member, so names equal values. mypy wants the members as literals.
ResourceName = Enum("ResourceName", {name: name for name in RESOURCES})  # type: ignore[misc] # its names are computed


# What the Launchpads are filled in with. `up` puts the sample into the bucket.
SAMPLE_BATCH = "batch_PUT_THE_ID_HERE"
SAMPLE_CONFIG: dict[str, Any] = {
    "ops": {
        tags.PARSE: {
            "config": {
                "organization": DEFAULT_ORGANIZATION,
                "resource": "contact",
                "action": "merge",
                "file": keys.SAMPLE,
            }
        }
    }
}


def _description(name: str) -> str:
    return BatchOptions.model_fields[name].description or ""


class BatchConfig(Config):
    """A batch to run."""

    organization: str = Field(DEFAULT_ORGANIZATION, description="The tenant whose records these are")
    resource: ResourceName = Field(description="What the items are")
    action: UploadAction = Field(description="What to do with them")
    file: str = Field(description="A key in the configured bucket, such as uploads/default/contact/merge/people.csv")
    name: str | None = Field(None, description=_description("name"))
    duplicate_handling: DuplicateHandling = Field(
        DuplicateHandling.ignore_all, description=_description("duplicate_handling")
    )
    properties: dict[str, str] = Field(default_factory=dict, description=_description("properties"))
    # Dagster has no type for a map or a word.
    column_mapping: Any = Field(default_factory=dict, description=_description("column_mapping"))
    blank_cells: BlankCells | None = Field(None, description=_description("blank_cells"))
    default_region: str | None = Field(None, description=_description("default_region"))
    save_upload: bool = Field(True, description=_description("save_upload"))
    save_result: bool = Field(False, description=_description("save_result"))
    delete_limit: str | None = Field(None, description=_description("delete_limit"))
    reject_limit: str = Field("none", description=_description("reject_limit"))
    allow_empty: bool = Field(False, description=_description("allow_empty"))
    plan_only: bool = Field(False, description=_description("plan_only"))
    timeout_seconds: int | None = Field(None, description=_description("timeout_seconds"))
    unknown_columns: UnknownColumns = Field(UnknownColumns.refuse, description=_description("unknown_columns"))

    def options(self) -> BatchOptions:
        """The options, their values checked. Raises RefusedError (`invalid_options`)."""
        names = BatchOptions.model_fields
        return parse_options({name: _json_value(getattr(self, name)) for name in names})


class ApplyConfig(Config):
    """A planned batch to apply."""

    batch: str = Field(description="The id of the planned batch: batch_…")
    if_changed: IfChanged = Field(
        IfChanged.fail,
        description="If the plan has changed since it was shown: fail and show the new plan, or write the new plan",
    )


def run_request_of(batch: Batch) -> RunRequest:
    """The request for the run that a batch awaits. Repeats are harmless: Dagster launches a run key only once."""
    return RunRequest(
        run_key=run_key_of(batch),
        job_name=job_name_of(batch),
        run_config=run_config_of(batch),
        tags=run_tags_of(batch),
    )


def _json_value(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
