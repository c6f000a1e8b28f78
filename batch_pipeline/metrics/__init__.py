"""The figures of the system in Prometheus' text format, from the ledger and from Dagster's storage."""
