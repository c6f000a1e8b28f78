"""Names that runs, assets and metadata carry in Dagster. Others search by them, so they don't change."""

BATCH_ID = "batch/id"
ORGANIZATION = "batch/organization"  # dagster.yaml limits concurrent runs by it
RESOURCE = "batch/resource"
ACTION = "batch/action"
TURN = "batch/turn"  # whose records: dagster.yaml lets one run write them while one more gets ready
REQUEST = "batch/request"  # which of the batch's requests for a run the run answers
IN_PROCESS = "batch/in_process"  # the run was not launched: it has none of Dagster's slots
RUN_KEY = "dagster/run_key"  # Dagster's own, on runs that a sensor asked for

JOB_NAME = "batch_job"
PARSE = "parse"
UPLOAD_SENSOR = "upload_sensor"
