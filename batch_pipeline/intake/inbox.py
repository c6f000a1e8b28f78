"""The inbox: each object version under `uploads/{organization}/{resource}/{action}/` becomes exactly one batch.

Intake copies the object to the batch's folder, accepts the batch in one transaction with the object's version, and
deletes the sidecar and the object from the inbox, in this order. The version is unique, so neither a crash between two
steps nor a concurrent process skips or duplicates an object. After a crash, an object that was accepted is only
deleted; any other is taken in again.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import zip_longest
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept, release_source
from batch_pipeline.batches.counts import record_inbox
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.locks import INBOX
from batch_pipeline.batches.model import Action, Batch, Starter, UploadAction
from batch_pipeline.batches.options import BatchOptions, label_from_file_name, parse_options
from batch_pipeline.batches.organizations import list_organizations
from batch_pipeline.batches.queries import newest_by_organization
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.database import translating_outages
from batch_pipeline.errors import NotFoundError, RefusedError
from batch_pipeline.intake.independent import process_independently
from batch_pipeline.records.registry import RESOURCES, check_action
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import StoredObject
from batch_pipeline.system import System

logger = logging.getLogger(__name__)

_REPLACEMENT = "\ufffd"  # servers over a file system list it in place of bytes that are not UTF-8


@dataclass(frozen=True)
class InboxAddress:
    """The parts of an inbox key. A part is None if its folder names none that exists; `problem` is the refusal then."""

    organization_id: str | None
    resource: str | None
    action: Action | None
    file_name: str
    problem: Reason | None


def read_address(key: str, organizations: set[str]) -> InboxAddress:
    """Splits an inbox key into its parts and checks each."""
    parts = key.split("/", 4)[1:]
    file_name = key.rsplit("/", 1)[-1]
    organization, resource, action = (*parts[:-1], None, None, None)[:3]
    known_organization = organization if organization in organizations else None
    known_resource = resource if resource in RESOURCES else None
    known_action = UploadAction(action) if action in set(UploadAction) else None
    wrong = [
        f"{what} {name!r}" if name else f"no {what}"
        for what, name, known in (
            ("organization", organization, known_organization),
            ("resource", resource, known_resource),
            ("action", action, known_action),
        )
        if known is None
    ]
    problem = None
    if known_organization is None or known_resource is None or known_action is None:
        problem = Reason(
            "unknown_folder",
            f"The folder names {', '.join(wrong)}, which is not known: "
            f"put files in {keys.INBOX}/{{organization}}/{{resource}}/{{action}}/.",
            is_refusal=True,
        )
    else:
        try:
            check_action(known_resource, known_action)
        except RefusedError as error:
            problem = Reason.of(error)
    found_action = None if known_action is None else Action(known_action.value)
    return InboxAddress(known_organization, known_resource, found_action, file_name, problem)


def take_in(
    system: System, *, limit: int, seconds: float | None = None, starter: Starter = Starter.launcher
) -> list[Batch]:
    """Takes in at most `limit` files, round-robin over organizations, oldest first in each. Returns the batches.

    Stops after `seconds`, but takes in at least one file. A file that fails does not block the others. Records how many
    files still wait, for monitoring. Errors and raising: see `process_independently`.
    """
    organizations = {organization.id for organization in list_organizations(system.engine)}
    waiting = {found.key: found for found in _list_files(system)}

    def take_in_listed(found: StoredObject) -> Batch | None:
        batch = take_in_one(system, found, organizations, starter=starter)
        if batch is not None:
            del waiting[found.key]
        return batch

    try:
        return process_independently(
            _in_turns(system, list(waiting.values()), organizations),
            take_in_listed,
            name_of=lambda found: found.key,
            check_storage=system.store.check,
            limit=limit,
            seconds=seconds,
        )
    finally:
        record_inbox(system.engine, [found.modified_at for found in waiting.values()])


def take_in_one(
    system: System,
    found: StoredObject,
    organizations: set[str],
    *,
    starter: Starter,
    options_override: BatchOptions | None = None,
) -> Batch | None:
    """Takes in one object. Returns None if it was deleted or overwritten after `found` was listed."""
    with exclusive_intake(system, found.key):
        current = system.store.confirm(found)
        if current is None:
            if _REPLACEMENT in found.key:
                _warn_unreadable_name(found.key)
            return None
        return _take_in(system, current, organizations, starter=starter, options_override=options_override)


@lru_cache(maxsize=1000)  # one warning per process, although each tick lists the object
def _warn_unreadable_name(key: str) -> None:
    logger.warning("%s is listed but can't be read: its name may not be UTF-8. Rename the file.", ascii(key))


@contextmanager
def exclusive_intake(system: System, key: str) -> Iterator[None]:
    """Holds the lock of an inbox key, so that only one process at a time takes the object in.

    Without it, a process that listed the object earlier could accept its version again after the first process has
    released the version.
    """
    with translating_outages(), system.engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(INBOX + key, 0))))
        yield


def _take_in(
    system: System,
    found: StoredObject,
    organizations: set[str],
    *,
    starter: Starter,
    options_override: BatchOptions | None,
) -> Batch | None:
    address = read_address(found.key, organizations)
    sidecar = _find_sidecar(system, found.key)
    options, problem = _read_options(system, sidecar) if options_override is None else (options_override, None)
    problem = address.problem or problem
    new = NewBatch(
        id=new_batch_id(),
        organization_id=address.organization_id,
        resource=address.resource,
        action=address.action,
        name=options.name or label_from_file_name(address.file_name),
        options=options,
        source_key=found.key,
        source_version=f"{found.key}@{found.version}",
        updated_by="inbox",
    )
    saved = options.save_upload or problem is not None
    target = keys.upload(new.id, address.file_name, saved=saved)
    try:
        system.store.copy(found.key, target)
    except NotFoundError:
        return None
    if system.store.confirm(found) is None:
        system.store.delete(target)  # overwritten during the copy, which may be of either version
        return None
    batch, is_new = accept(system.engine, new, payload=ArrivedPayload(target, saved, starter), refused=problem)
    if not is_new:
        system.store.delete(target)  # an earlier intake, which crashed, has accepted this version
        if batch.status is BatchStatus.requested and batch.arrival is None:
            # An earlier release left the batch without its payload. Reconciling ends it; then this file is taken in.
            return None
    # The sidecar first: who waits for the file to leave the inbox may then put the next one there with its own sidecar.
    for taken in (sidecar, found):
        # An object that was overwritten since is a new version or its options: the next tick takes it in.
        if taken is not None and system.store.confirm(taken) is not None:
            system.store.delete(taken.key)
    release_source(system.engine, batch.id)
    return batch


def _list_files(system: System) -> list[StoredObject]:
    return [found for found in system.store.list(keys.INBOX + "/") if keys.is_batch_file(found.key)]


def _in_turns(system: System, files: list[StoredObject], organizations: set[str]) -> Iterator[StoredObject]:
    """The files that have not changed for `inbox_quiet_seconds`, round-robin over organizations.

    The organization whose newest batch is oldest comes first.
    """
    quiet_since = datetime.now(UTC) - timedelta(seconds=system.settings.inbox_quiet_seconds)
    queues: dict[str | None, list[StoredObject]] = defaultdict(list)
    for found in files:
        if found.modified_at <= quiet_since:
            queues[read_address(found.key, organizations).organization_id].append(found)
    for queue in queues.values():
        queue.sort(key=lambda item: (item.modified_at, item.key))
    if len(queues) > 1:
        # A fixed order would starve the last organizations if there are more than one tick's limit.
        newest = newest_by_organization(system.engine)
        never = datetime.min.replace(tzinfo=UTC)
        queues = dict(sorted(queues.items(), key=lambda item: newest.get(item[0] or "", never)))
    for round_of_all in zip_longest(*queues.values()):
        yield from (found for found in round_of_all if found is not None)


def _find_sidecar(system: System, key: str) -> StoredObject | None:
    try:
        return system.store.stat(key + keys.OPTIONS_SUFFIX)
    except NotFoundError:
        return None


def _read_options(system: System, sidecar: StoredObject | None) -> tuple[BatchOptions, Reason | None]:
    """The sidecar's options; the defaults without a sidecar, or, with the reason, if it is invalid."""
    if sidecar is None:
        return BatchOptions(), None
    name = sidecar.key.rsplit("/", 1)[-1]
    limit = system.settings.max_sidecar_bytes
    if sidecar.size > limit:
        message = f"{name} has {sidecar.size:,} bytes, the limit is {limit:,} (BATCH_MAX_SIDECAR_BYTES)."
        return BatchOptions(), Reason("invalid_options", message, is_refusal=True)
    try:
        return parse_options(_parse_json(name, system.store.read(sidecar.key))), None
    except NotFoundError:
        return BatchOptions(), None  # deleted since
    except RefusedError as error:
        return BatchOptions(), Reason.of(error)


def _parse_json(name: str, text: bytes) -> Any:
    """Raises RefusedError (`invalid_options`)."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = f"{name} is not JSON: {error}."
    except RecursionError:
        message = f"{name} is nested too deep for options."
    except ValueError:  # Python's limit for integers, by default 4,300 digits
        message = f"{name} has a number with too many digits."
    raise RefusedError("invalid_options", message)
