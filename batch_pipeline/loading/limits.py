"""How many records a batch may delete and how many items it may reject: the options `delete_limit`, `reject_limit`.

A limit is a count, a percentage such as 10%, or `none`.
"""

from batch_pipeline.batches.model import Action
from batch_pipeline.errors import RefusedError

# Without the option, an overwrite is refused if it would delete more than both of these (`batches.md`).
DEFAULT_COUNT = 500
DEFAULT_PERCENT = 50.0

REJECT_LIMIT_EXCEEDED = "reject_limit_exceeded"


def has_limit(limit: str | None, action: Action) -> bool:
    """Whether a delete limit applies."""
    if limit is None:
        return action is Action.overwrite
    return limit != "none" and action is not Action.merge


def check_delete_limit(limit: str | None, *, to_delete: int, records: int) -> None:
    """Raises RefusedError (`delete_limit_exceeded`, with the numbers) if the batch would delete too many records.

    `limit` is the option; a percentage is one of `records`; None is the default. Call it only for batches that have a
    limit.
    """
    if limit is None:
        if to_delete <= DEFAULT_COUNT or _percent(to_delete, records) <= DEFAULT_PERCENT:
            return
        allowed = f"{DEFAULT_COUNT:,} and {DEFAULT_PERCENT:g}%"
    else:
        if not _exceeds(limit, to_delete, records):
            return
        allowed = _limit_text(limit)
    raise RefusedError(
        "delete_limit_exceeded",
        f"The batch would delete {to_delete:,} of {records:,} records ({_percent(to_delete, records):.1f}%), and the "
        f"limit is {allowed}. Nothing was written. If that is what you want, set delete_limit.",
    )


def reject_limit_refusal(limit: str, *, rejected: int, items: int) -> RefusedError | None:
    """The error `REJECT_LIMIT_EXCEEDED`, with the numbers, if too many of the items read are rejected; else None.

    `limit` is the option; a percentage is one of `items`.
    """
    if not _exceeds(limit, rejected, items):
        return None
    return RefusedError(
        REJECT_LIMIT_EXCEEDED,
        f"The batch would reject {rejected:,} of {items:,} items ({_percent(rejected, items):.1f}%), and reject_limit "
        f"is {_limit_text(limit)}. Nothing was written. Correct the items in the errors file and upload all items "
        "again. If these may be rejected, set another reject_limit.",
    )


def _exceeds(limit: str, count: int, total: int) -> bool:
    if limit == "none":
        return False
    return _percent(count, total) > float(limit[:-1]) if limit.endswith("%") else count > int(limit)


def _percent(count: int, total: int) -> float:
    return 100 * count / total if total else 0.0


def _limit_text(limit: str) -> str:
    return limit if limit.endswith("%") else f"{int(limit):,}"
