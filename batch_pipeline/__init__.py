"""Bulk operations on logistics records, one Dagster run per batch."""

from batch_pipeline.garbage import collect_seldom

collect_seldom()
