"""The errors that this package raises on purpose.

Each has a stable snake_case ``code`` and a message: what happened, to what, and what to do. `BatchError` is the base
class. The subclasses differ in who must act and whether a retry can help.
"""

import errno
import tempfile


class BatchError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        code: stable snake_case code, as shown in a batch's ``reason``.
        message: a sentence that a user can act on.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RefusedError(BatchError):
    """The payload or request is refused as a whole. Permanent: the sender must correct it."""


class UnknownColumnsError(RefusedError):
    """The header has columns that the resource does not have.

    `suggested_mapping`: a `column_mapping` (field -> header) for those whose field is certain; None: there is none.
    """

    def __init__(self, message: str, suggested_mapping: dict[str, str] | None = None) -> None:
        super().__init__("unknown_columns", message)
        self.suggested_mapping = suggested_mapping


class WrongValuesError(RefusedError):
    """A request has wrong values; `errors` has one "field: error" for each."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("invalid_request", "The request has wrong values.")
        self.errors = errors


class TooLargeError(RefusedError):
    """The request exceeds a size limit; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__("too_large", message)


class BusyError(BatchError):
    """The request could not be served within the caller's maximum wait. A retry can help."""


class SettingError(BatchError):
    """A setting is missing or malformed; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_setting", message)


class UnavailableError(BatchError):
    """A required service (database, storage, Dagster) can't be reached. A later retry can help."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(f"{service}_unavailable", message)
        self.service = service


class DiskFullError(BatchError):
    """The local disk of this machine is full. Neither the storage service nor the payload is the cause."""

    def __init__(self) -> None:
        super().__init__(
            "disk_full",
            f"The disk of the machine that worked on this is full ({tempfile.gettempdir()}): make room and retry.",
        )


def is_disk_full(error: BaseException) -> bool:
    """Whether the error means that the local disk or the user's disk quota is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class NotFoundError(BatchError):
    """The named object does not exist, or not for this caller."""


class StateError(BatchError):
    """The batch's state does not allow the request, or the transition is illegal."""


class PlanChangedError(BatchError):
    """The plan to apply has changed since it was shown; nothing was written."""


class YieldedSlotError(BatchError):
    """The run ends while its batch is queued, so that the run it waits for can use its slot."""


class TimedOutError(BatchError):
    """The attempt ran longer than its time-out."""


class SupersededError(BatchError):
    """The run lost its turn, its attempt is not the newest, or its batch has ended. It must write nothing more."""
