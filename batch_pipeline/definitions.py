"""The code location that Dagster loads (workspace.yaml, `dg dev`)."""

from batch_pipeline.orchestration.definitions import build_defs

defs = build_defs()
