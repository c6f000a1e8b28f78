"""The errors that this package raises on purpose.

Every one has a stable snake_case ``code`` and a message that says what happened, to what, and what to do.
`BatchError` is the base; the kinds differ in who has to act and whether trying again can help.
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
    """The payload or request as a whole is refused: permanent, and for its sender to correct."""


class WrongValuesError(RefusedError):
    """A request has wrong values; `errors` names each, as "field: what is wrong"."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("invalid_request", "The request has wrong values.")
        self.errors = errors


class TooLargeError(RefusedError):
    """The request is larger than a limit, which the message names."""

    def __init__(self, message: str) -> None:
        super().__init__("too_large", message)


class BusyError(BatchError):
    """What was asked for could not be had within the time that the caller waits; trying again can help."""


class SettingError(BatchError):
    """A setting is missing or malformed; the message names it."""

    def __init__(self, message: str) -> None:
        super().__init__("invalid_setting", message)


class UnavailableError(BatchError):
    """A service this system needs (database, storage, Dagster) can't be reached: trying later can help."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(f"{service}_unavailable", message)
        self.service = service


class DiskFullError(BatchError):
    """The local disk of this machine is full: not the storage service's fault, and nothing the payload can help."""

    def __init__(self) -> None:
        super().__init__(
            "disk_full",
            f"The disk of the machine that worked on this is full ({tempfile.gettempdir()}): make room and retry.",
        )


def is_disk_full(error: BaseException) -> bool:
    """Whether the error says that the local disk, or the account's quota of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class NotFoundError(BatchError):
    """The named thing does not exist (for this caller)."""


class StateError(BatchError):
    """The batch's state does not allow what was asked for, or an illegal transition was attempted."""


class YieldedSlotError(BatchError):
    """This run ended, its batch still queued, so that the run it was waiting for can have its slot."""


class SupersededError(BatchError):
    """This run lost its place (turn, attempt or batch) to a successor and must write nothing more."""
