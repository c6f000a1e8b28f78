"""How many records a batch may delete: the option `delete_limit`, and the default limit of an overwrite."""

from batch_pipeline.batches.model import Action
from batch_pipeline.errors import RefusedError

# Without the option, an overwrite is refused if it would delete more than both of these (`batches.md`).
DEFAULT_COUNT = 500
DEFAULT_PERCENT = 50.0


def has_limit(limit: str | None, action: Action) -> bool:
    """Whether a delete limit applies."""
    if limit is None:
        return action is Action.overwrite
    return limit != "none" and action is not Action.merge


def check_delete_limit(limit: str | None, *, to_delete: int, records: int) -> None:
    """Raises RefusedError (`delete_limit_exceeded`, with the numbers) if the batch would delete too many records.

    `limit` is the option: a count, a percentage of `records` such as 10%, or None for the default. Call it only for
    batches that have a limit.
    """
    percent = 100 * to_delete / records if records else 0.0
    if limit is None:
        if to_delete <= DEFAULT_COUNT or percent <= DEFAULT_PERCENT:
            return
        allowed = f"{DEFAULT_COUNT:,} and {DEFAULT_PERCENT:g}%"
    elif limit.endswith("%"):
        if percent <= float(limit[:-1]):
            return
        allowed = limit
    else:
        if to_delete <= int(limit):
            return
        allowed = f"{int(limit):,}"
    raise RefusedError(
        "delete_limit_exceeded",
        f"The batch would delete {to_delete:,} of {records:,} records ({percent:.1f}%), and the limit is {allowed}. "
        "Nothing was written. If that is what you want, set delete_limit.",
    )
