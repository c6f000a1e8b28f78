"""The batch and its values: actions, modes, phases, statistics.

Nothing here accesses the database; `accept` and `ledger` store these values.
"""

import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from batch_pipeline.batches.batch_object import applying_mapping, batch_object
from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.batches.stats import UNDO_COUNTS, Stats
from batch_pipeline.errors import StateError


class Action(StrEnum):
    """What a batch does with its items."""

    merge = "merge"
    overwrite = "overwrite"
    delete = "delete"
    undo = "undo"  #: takes back what another batch wrote; its items are that batch's records


class UploadAction(StrEnum):
    """The actions of `Action` that an upload can have."""

    merge = Action.merge.value
    overwrite = Action.overwrite.value
    delete = Action.delete.value


class Mode(StrEnum):
    """Whether the caller waits for all phases (sync) or for parsing and validation only (mixed)."""

    sync = "sync"
    mixed = "mixed"


class Via(StrEnum):
    """How the payload arrived: in an API call, or as a file."""

    api = "api"
    file = "file"


class DuplicateHandling(StrEnum):
    """What happens to items that identify the same record but differ."""

    ignore_all = "ignore_all"
    use_first = "use_first"
    use_last = "use_last"


class BlankCells(StrEnum):
    """What an empty cell means for an existing record."""

    keep = "keep"
    clear = "clear"


class UnknownColumns(StrEnum):
    """What happens to columns that the resource does not have."""

    refuse = "refuse"
    ignore = "ignore"


class IfChanged(StrEnum):
    """What an apply does if the plan has changed since it was shown."""

    fail = "fail"  #: shows the new plan and writes nothing
    replan = "replan"  #: writes the new plan


class Starter(StrEnum):
    """Who starts the run that a batch awaits."""

    launcher = "launcher"  #: Dagster, requested by the sensor or the API
    caller = "caller"  #: the process that created the batch or its re-run


class PhaseName(StrEnum):
    """The four phases of a batch, in order."""

    parsing = "parsing"
    validation = "validation"
    processing = "processing"
    cleanup = "cleanup"


class PhaseStatus(StrEnum):
    """Status of a phase."""

    pending = "pending"
    running = "running"
    completed = "completed"
    failed = "failed"
    skipped = "skipped"


@dataclass(frozen=True)
class Phase:
    """Progress of one phase, in items (in cleanup: records)."""

    name: PhaseName
    mode: str = "async"  #: `sync` if an API call waits for the phase, else `async`
    status: PhaseStatus = PhaseStatus.pending
    total: int | None = None  #: items to process; None while unknown
    success: int = 0  #: items that continue to the next phase
    error: int = 0  #: items that this phase rejected
    reason: str | None = None  #: why it failed or was skipped
    started_at: float | None = None  #: epoch seconds
    ended_at: float | None = None  #: epoch seconds
    already: int = 0  #: items of `success` and `error` that earlier attempts processed, before `started_at`

    @property
    def processed(self) -> int:
        return self.success + self.error

    @property
    def seconds(self) -> float | None:
        """Duration of the phase; None until it ends."""
        if self.started_at is None or self.ended_at is None:
            return None
        return self.ended_at - self.started_at

    def begun(self, total: int | None = None, *, already: int = 0) -> "Phase":
        """The phase as running from now on; earlier attempts processed `already` items."""
        return replace(
            self, status=PhaseStatus.running, total=total, started_at=time.time(), ended_at=None, already=already
        )

    def to_row(self) -> dict[str, Any]:
        """The phase as stored: times in epoch seconds with fractions."""
        return dict(vars(self))  # `asdict` copies deeply

    @classmethod
    def from_row(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_row`."""
        return cls(**{**data, "name": PhaseName(data["name"]), "status": PhaseStatus(data["status"])})


def initial_phases(mode: Mode, via: Via, action: Action | None = None) -> tuple[Phase, ...]:
    """The four phases of a new batch.

    A phase is `sync` if an API call waits for it; no call waits for a file or an undo.
    """
    waited_for: tuple[PhaseName, ...] = ()
    if mode is Mode.sync:
        waited_for = tuple(PhaseName)
    elif via is Via.api and action is not Action.undo:
        waited_for = (PhaseName.parsing, PhaseName.validation)
    return tuple(Phase(name, mode="sync" if name in waited_for else "async") for name in PhaseName)


@dataclass(frozen=True)
class Address:
    """What a batch does to which records."""

    organization_id: str
    resource: str
    action: Action


@dataclass(frozen=True)
class ReceivedPayload:
    """The storage key of a batch's payload, and when it arrived."""

    key: str
    arrived_at: datetime


@dataclass(frozen=True)
class Batch:
    """One bulk operation on one resource of one organization: a row of the ledger."""

    id: str  #: `batch_` and 22 base58 characters; ids sort by creation time
    organization_id: str | None  #: None if the inbox folder names no known organization
    name: str  #: a label, 3 to 127 characters
    resource: str | None  #: None if the inbox folder names no known resource
    action: Action | None  #: None if the inbox folder names no known action
    mode: Mode  #: which phases the caller waits for
    via: Via  #: how the payload arrived
    status: BatchStatus  #: state in the state machine of `states`
    reason: Reason | None  #: why the batch failed, timed out or expired
    options: dict[str, Any]  #: the values of `BatchOptions`, JSON
    phases: tuple[Phase, ...]  #: always all four, in order
    stats: Stats  #: outcomes of items, zeros until it completes
    facts: BatchFacts  #: facts that phases pass to later phases
    checksum: str | None  #: SHA-256 of the payload, set by parsing
    source_key: str | None  #: inbox key, bucket key or file name of the payload's source
    upload_key: str | None  #: storage key of the payload
    has_upload_file: bool  #: the payload is kept for download
    has_errors_file: bool  #: errors.csv and errors.json exist
    error_summary: dict[str, Any] | None  #: the errors of its items by field and code (`phases.error_summary`)
    has_result_file: bool  #: result.json exists
    run_id: str | None  #: Dagster run of the newest attempt
    attempts: int  #: number of attempts
    awaits_run: Starter | None  #: who starts the requested run; None if no run is requested
    retry_of: str | None  #: the batch that rejected these items
    undo_of: str | None  #: the batch that this one takes back
    arrival: int | None  #: place in the order of arrival; a re-run gets a new place
    first_arrival: int | None  #: place of the payload's first arrival: decides which batch has newer data
    arrived_at: datetime | None  #: when the payload arrived
    plan_version: int | None  #: version of the records for which the plan was made
    plan: dict[str, Any] | None  #: the plan as shown (`phases.showing`); None unless it was asked for
    plan_expires_at: datetime | None  #: until then the shown plan can be applied
    if_changed: IfChanged | None  #: what the apply does if the plan has changed; None until somebody applies it
    upload_expires_at: datetime | None  #: when its upload URL expires
    next_attempt_at: datetime | None  #: when the failed batch runs again by itself; None: it does not
    reruns: int  #: automatic re-runs since somebody last requested a run
    launch_claimed_until: datetime | None  #: until then the API launches the run, not the sensor
    pruned_at: datetime | None  #: when retention began to delete its files
    created_at: datetime
    updated_at: datetime  #: last change of its row
    updated_by: str = field(default="system")  #: API key, `cli`, `inbox`, `launchpad`, `retry` or `system`

    @property
    def awaits_decision(self) -> bool:
        """Whether validation is to show the plan, and nothing is to be written before somebody applies it."""
        return bool(self.options.get("plan_only")) and self.if_changed is None

    @property
    def address(self) -> Address:
        """Organization, resource and action. Raises StateError (`unknown_folder`) if any of them is unknown."""
        if self.organization_id is None or self.resource is None or self.action is None:
            raise StateError(
                "unknown_folder",
                f"Batch {self.id} came from a folder without a known organization, resource and action.",
            )
        return Address(self.organization_id, self.resource, self.action)

    @property
    def payload(self) -> ReceivedPayload:
        """Raises StateError (`nothing_to_rerun`) if no payload has arrived."""
        if self.upload_key is None or self.arrived_at is None:
            raise StateError("nothing_to_rerun", f"Batch {self.id} has no payload: upload the file again.")
        return ReceivedPayload(self.upload_key, self.arrived_at)

    def phase(self, name: PhaseName) -> Phase:
        """The named phase."""
        return next(phase for phase in self.phases if phase.name is name)

    @property
    def items(self) -> int:
        """The items that were read; of an undo the records that the undone batch wrote."""
        return self.facts.items if self.action is Action.undo else self.stats.items_read

    @property
    def counts(self) -> dict[str, int]:
        """The counts of `stats` that the batch's action can have."""
        is_undo = self.action is Action.undo
        only_undo = set(UNDO_COUNTS) - {"deleted"}
        return {
            name: count
            for name, count in self.stats.to_json().items()
            if (name in UNDO_COUNTS if is_undo else name not in only_undo)
        }

    @property
    def column_mapping(self) -> dict[str, str]:
        """The mapping that applies: record field -> header. Empty while a remembered one is not looked up."""
        return applying_mapping(self.options, self.facts.remembered)

    @property
    def is_refused(self) -> bool:
        """Whether the batch failed because its payload was refused as a whole."""
        return self.status is BatchStatus.failed and self.reason is not None and self.reason.is_refusal

    def to_json(self) -> dict[str, Any]:
        """The batch object of the specification."""
        return batch_object(
            {
                **vars(self),
                "reason": None if self.reason is None else vars(self.reason),
                "phases": map(vars, self.phases),
                "stats": vars(self.stats),
                "work": vars(self.facts),
            }
        )
