"""The command line: `batch-pipeline`."""
