"""Names of tags, the job, ops and sensors in Dagster. People search by them, so they must not change."""

BATCH_ID = "batch/id"
ORGANIZATION = "batch/organization"  # dagster.yaml limits concurrent runs by it
RESOURCE = "batch/resource"
ACTION = "batch/action"
TURN = "batch/turn"  # organization and resource: the run queue allows one run to write and one to prepare
REQUEST = "batch/request"  # the batch's request that the run answers: see `run_request_key`
IN_PROCESS = "batch/in_process"  # the run executes in its caller's process and occupies no slot of Dagster's
RUN_KEY = "dagster/run_key"  # Dagster's own tag on runs that a sensor requested

JOB_NAME = "batch_job"
APPLY_JOB_NAME = "apply_job"
UNDO_JOB_NAME = "undo_job"
JOB_NAMES = (JOB_NAME, APPLY_JOB_NAME, UNDO_JOB_NAME)  # of all jobs whose runs are attempts at batches
APPLY = "apply"
PARSE = "parse"
UNDO = "undo"
UPLOAD_SENSOR = "upload_sensor"
