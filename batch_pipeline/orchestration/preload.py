"""Imports all that a run needs, for processes that other runs are forked from, or that wait for one.

It opens no connection and starts no thread: a forked process would share or miss them.
"""

from batch_pipeline.records.descriptions import all_resources

all_resources()
