"""Bulk operations on logistics records, one Dagster run per batch."""

import gc

# Imports make hundreds of thousands of objects, which stay. To look through them again for every 700 new ones, Python's
# default, takes a sixth of the time in which a run or a command starts.
gc.set_threshold(10_000, 10, 10)
