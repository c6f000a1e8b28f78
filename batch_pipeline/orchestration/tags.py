"""Names of tags, the job, ops and sensors in Dagster. People search by them, so they must not change."""

BATCH_ID = "batch/id"
ORGANIZATION = "batch/organization"  # dagster.yaml limits concurrent runs by it
RESOURCE = "batch/resource"
ACTION = "batch/action"
NAME = "batch/name"  # the batch's label, by default its file's name
OUTCOME = "batch/outcome"  # what became of the batch in this run: see `outcome_text`
# The UI never shows tags that begin with `.dagster/`.
TURN = ".dagster/batch_turn"  # organization and resource: the run queue allows one run to write and one to prepare
REQUEST = ".dagster/batch_request"  # the batch's request that the run answers: see `run_request_key`
IN_PROCESS = ".dagster/batch_in_process"  # the run executes in its caller's process and occupies no slot of Dagster's
# Dagster's own tags on runs that a sensor requested.
RUN_KEY = "dagster/run_key"
SENSOR_NAME = "dagster/sensor_name"

JOB_NAME = "batch_job"
APPLY_JOB_NAME = "apply_job"
UNDO_JOB_NAME = "undo_job"
RETRY_REJECTED_JOB_NAME = "retry_rejected_job"
# All jobs whose runs are attempts at batches.
JOB_NAMES = (JOB_NAME, APPLY_JOB_NAME, UNDO_JOB_NAME, RETRY_REJECTED_JOB_NAME)
APPLY = "apply"
PARSE = "parse"
UNDO = "undo"
RETRY_REJECTED = "retry_rejected"
UPLOAD_SENSOR = "upload_sensor"
