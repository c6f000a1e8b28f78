"""The four phases of a batch as plain functions: parse, validate, process, cleanup."""
