"""The job: one run of it is one batch."""

from dagster import JobDefinition, in_process_executor, job

from batch_pipeline.orchestration import ops, tags


def build_batch_job() -> JobDefinition:
    """`batch_job`: parse, validate, process, cleanup, in one process.

    Phases run inside the run's process: four trivial ops cost 0.5 s there and 9.3 s in Dagster's default executor.
    Parallelism is inside a phase and between runs. There is no RetryPolicy: with one, Terminate becomes a retry
    (dagster#15026), and bad data fail again.
    """

    @job(
        name=tags.JOB_NAME,
        executor_def=in_process_executor,
        description="One batch: a file of items becomes correct rows in PostgreSQL, or an errors file.",
    )
    def batch_job() -> None:
        ops.cleanup(ops.process(ops.validate(ops.parse())))

    return batch_job
