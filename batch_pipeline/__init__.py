"""Bulk operations on logistics records, one Dagster run per batch."""

from batch_pipeline.garbage import collect_seldom, omit_last_collection

collect_seldom()
omit_last_collection()
