"""Bulk operations on logistics records, one Dagster run per batch."""

from batch_pipeline.allocation import share_freed_memory, use_one_blas_thread
from batch_pipeline.garbage import collect_seldom, omit_last_collection

share_freed_memory()
use_one_blas_thread()
collect_seldom()
omit_last_collection()
