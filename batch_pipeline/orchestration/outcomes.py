"""What became of a batch, on one line without customers' values: on its run's page and in the list of runs."""

from dataclasses import asdict

from dagster import DagsterInstance, OpExecutionContext

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.orchestration import tags


def outcome_text(batch: Batch) -> str:
    """The counts of a completed batch that are not zero; the plan's counts of a planned one; else status and code."""
    if batch.status is BatchStatus.completed:
        return f"{batch.items:,} items: {_counts_text(asdict(batch.stats)) or 'nothing to do'}"
    if batch.status is BatchStatus.planned and batch.plan is not None:
        return f"planned: {_counts_text(batch.plan['counts']) or 'nothing to do'}"
    return batch.status.value if batch.reason is None else f"{batch.status.value}: {batch.reason.code}"


def _counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def tag_outcome(instance: DagsterInstance, run_id: str, batch: Batch) -> None:
    """Shows the batch's outcome in the list of runs, whose columns are narrow: without the number of items."""
    instance.add_run_tags(run_id, _outcome_tag(batch))


def tag_outcome_at_end(context: OpExecutionContext, batch: Batch) -> None:
    """As `tag_outcome`, for the run's last op: the tag is stored with the run's end."""
    tag_at_end(context, _outcome_tag(batch))


def tag_at_end(context: OpExecutionContext, new_tags: dict[str, str]) -> None:
    """Tags the run when it ends; at once if it has one of the tags, or if Dagster has another storage than ours."""
    from batch_pipeline.orchestration.dagster_storage import RunStorage  # imports alembic, which few need

    storage = context.instance.run_storage
    if isinstance(storage, RunStorage) and not new_tags.keys() & context.run.tags.keys():
        storage.tag_at_end(context.run_id, new_tags)
    else:
        context.instance.add_run_tags(context.run_id, new_tags)


def _outcome_tag(batch: Batch) -> dict[str, str]:
    text = (
        outcome_text(batch).partition(" items: ")[2] if batch.status is BatchStatus.completed else outcome_text(batch)
    )
    return {tags.OUTCOME: text}
