"""Links on run pages: to the errors file by the API, and to Launchpads that are filled in for the batch.

A link holds no secret: events are kept for weeks, and whoever reaches Dagster's webserver reads them.
"""

from urllib.parse import quote_plus

from dagster import MetadataValue

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import FINAL, BatchStatus
from batch_pipeline.dagster_home import LOCATION_NAME
from batch_pipeline.loading.limits import REJECT_LIMIT_EXCEEDED
from batch_pipeline.orchestration import tags
from batch_pipeline.settings import Settings

Links = dict[str, MetadataValue]


def errors_links(settings: Settings, batch: Batch) -> Links:
    """Links for the batch's rejected items: their file (if `BATCH_API_URL` is set), and the job that retries them."""
    if not batch.has_errors_file or batch.pruned_at is not None:
        return {}
    links: Links = {}
    if settings.api_url is not None:
        address = f"{settings.api_url.rstrip('/')}/v1/batches/{batch.id}/errors.csv"
        links["open the errors file"] = MetadataValue.url(address)
    if batch.status in FINAL and (batch.reason is None or batch.reason.code != REJECT_LIMIT_EXCEEDED):
        links["retry the rejected items"] = _launchpad(tags.RETRY_REJECTED_JOB_NAME, tags.RETRY_REJECTED, batch)
    return links


def next_links(batch: Batch) -> Links:
    """The link to the job that applies a planned batch."""
    if batch.status is not BatchStatus.planned:
        return {}
    return {"apply the plan": _launchpad(tags.APPLY_JOB_NAME, tags.APPLY, batch)}


def _launchpad(job_name: str, op_name: str, batch: Batch) -> MetadataValue:
    """The address of the job's Launchpad with the batch filled in, on the webserver that shows the link."""
    config = quote_plus(f"ops: {{{op_name}: {{config: {{batch: {batch.id}}}}}}}", safe=":{}")
    return MetadataValue.url(f"/locations/{LOCATION_NAME}/jobs/{job_name}/playground/setup?config={config}")
