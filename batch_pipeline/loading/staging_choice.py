"""Which batches share staging tables."""

from batch_pipeline.batches.model import Batch
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.shared_staging import SharedStaging
from batch_pipeline.loading.staging import Staging

# Up to this many items, shared tables are faster than tables of the batch's own: see decision 15.
SHARED_ITEMS = 2_000


def staging_of(batch: Batch) -> Staging:
    """The staged rows of the batch. An earlier release gave each batch tables of its own."""
    if batch.facts.shares_staging:
        return SharedStaging(batch.id, batch.address.resource)
    return OwnStaging(batch.id)
