"""Bulk operations on logistics records, one Dagster run per batch."""
