"""Reads the change log: the history of a record, and the changes of a batch."""
