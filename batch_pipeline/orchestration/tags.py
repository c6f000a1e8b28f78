"""Names that runs, assets and metadata carry in Dagster. Others search by them, so they don't change."""

BATCH_ID = "batch/id"
ORGANIZATION = "batch/organization"  # dagster.yaml limits concurrent runs by it
RESOURCE = "batch/resource"
ACTION = "batch/action"

JOB_NAME = "batch_job"
PARSE = "parse"
