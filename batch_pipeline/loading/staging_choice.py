"""Where a batch's staged rows are. Parsing decides, and records it as the fact `shares_staging`."""

from batch_pipeline.batches.model import Batch
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.shared_staging import SharedStaging
from batch_pipeline.loading.staging import Staging


def staging_of(batch: Batch) -> Staging:
    """The staged rows of the batch. An earlier release gave each batch tables of its own."""
    if batch.facts.shares_staging:
        return SharedStaging(batch.id, batch.address.resource)
    return OwnStaging(batch.id)
