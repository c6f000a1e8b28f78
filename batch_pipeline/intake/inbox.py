"""The inbox: files under `uploads/{organization}/{resource}/{action}/` become batches, each object version exactly one.

An object is copied to the batch's folder, accepted in one transaction under its version, and removed from the inbox, in
that order. The unique version decides: a crash between any two steps, or two processes at once, neither skip nor double
an object. One that was accepted is only removed again; one that was not is taken in again.
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
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.locks import INBOX
from batch_pipeline.batches.model import Action, Batch, Starter
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

_REPLACEMENT = "\ufffd"  # what servers that keep files list for bytes that are not UTF-8


@dataclass(frozen=True)
class InboxAddress:
    """The parts of an inbox key, None where the folder names no known one, and why it is refused."""

    organization_id: str | None
    resource: str | None
    action: Action | None
    file_name: str
    problem: Reason | None


def read_address(key: str, organizations: set[str]) -> InboxAddress:
    """Takes an inbox key apart."""
    parts = key.split("/", 4)[1:]
    file_name = key.rsplit("/", 1)[-1]
    organization, resource, action = (*parts[:-1], None, None, None)[:3]
    known_organization = organization if organization in organizations else None
    known_resource = resource if resource in RESOURCES else None
    known_action = Action(action) if action in set(Action) else None
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
            check_action(RESOURCES[known_resource], known_action)
        except RefusedError as error:
            problem = Reason.of(error)
    return InboxAddress(known_organization, known_resource, known_action, file_name, problem)


def take_in(
    system: System, *, limit: int, seconds: float | None = None, starter: Starter = Starter.launcher
) -> list[Batch]:
    """Takes in at most `limit` files: organizations in turn, in order of time within each. Returns the batches.

    After so many `seconds`, and one file at least, the rest is left for the next time. A file that storage refuses, or
    that can't be taken in for a reason nobody foresaw, holds up no other: see
    `process_independently`, also for what is raised.
    """
    organizations = {organization.id for organization in list_organizations(system.engine)}
    return process_independently(
        _waiting(system, organizations),
        lambda found: take_in_one(system, found, organizations, starter=starter),
        name_of=lambda found: found.key,
        check_storage=system.store.check,
        limit=limit,
        seconds=seconds,
    )


def take_in_one(
    system: System,
    found: StoredObject,
    organizations: set[str],
    *,
    starter: Starter,
    options_override: BatchOptions | None = None,
) -> Batch | None:
    """Takes in one object; None where it has gone from the inbox, or been overwritten, meanwhile."""
    with exclusive_intake(system, found.key):
        current = system.store.confirm(found)
        if current is None:
            if _REPLACEMENT in found.key:
                _warn_of_name(found.key)
            return None
        return _take_in(system, current, organizations, starter=starter, options_override=options_override)


@lru_cache(maxsize=1000)  # once a process: the object is listed at every tick
def _warn_of_name(key: str) -> None:
    logger.warning("%s is listed but can't be read: its name may not be UTF-8. Rename the file.", ascii(key))


@contextmanager
def exclusive_intake(system: System, key: str) -> Iterator[None]:
    """One process at a time takes in a key: another, which listed the object before, finds it gone.

    Without this it could accept the version again just after the first has released it.
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
    sidecar = _sidecar(system, found.key)
    options, problem = _options(system, sidecar) if options_override is None else (options_override, None)
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
        system.store.delete(target)  # overwritten meanwhile: the copy may be of either version
        return None
    batch, is_new = accept(system.engine, new, payload=ArrivedPayload(target, saved, starter), refused=problem)
    if not is_new:
        system.store.delete(target)  # an earlier try, which died, has accepted this version
        if batch.status is BatchStatus.requested and batch.arrival is None:
            return (
                None  # left by an earlier release without its payload: reconciling ends it, then this file is taken in
            )
    for taken in (found, sidecar):
        # An object that was overwritten since is the next version, or its options: it stays for the next look.
        if taken is not None and system.store.confirm(taken) is not None:
            system.store.delete(taken.key)
    release_source(system.engine, batch.id)
    return batch


def _waiting(system: System, organizations: set[str]) -> Iterator[StoredObject]:
    """The inbox's files that are quiet long enough, organizations in turn: who last had a batch longest ago first."""
    quiet_since = datetime.now(UTC) - timedelta(seconds=system.settings.inbox_quiet_seconds)
    queues: dict[str | None, list[StoredObject]] = defaultdict(list)
    for found in system.store.list(keys.INBOX + "/"):
        if keys.is_batch_file(found.key) and found.modified_at <= quiet_since:
            queues[read_address(found.key, organizations).organization_id].append(found)
    for queue in queues.values():
        queue.sort(key=lambda item: (item.modified_at, item.key))
    if len(queues) > 1:
        # Not always the same one first: with more of them than are taken in at a time, the last would wait for ever.
        newest = newest_by_organization(system.engine)
        never = datetime.min.replace(tzinfo=UTC)
        queues = dict(sorted(queues.items(), key=lambda item: newest.get(item[0] or "", never)))
    for round_of_all in zip_longest(*queues.values()):
        yield from (found for found in round_of_all if found is not None)


def _sidecar(system: System, key: str) -> StoredObject | None:
    """The file's sidecar, where it has one."""
    try:
        return system.store.stat(key + keys.OPTIONS_SUFFIX)
    except NotFoundError:
        return None


def _options(system: System, sidecar: StoredObject | None) -> tuple[BatchOptions, Reason | None]:
    """The options that the sidecar says, or the defaults and what is wrong with it."""
    if sidecar is None:
        return BatchOptions(), None
    name = sidecar.key.rsplit("/", 1)[-1]
    limit = system.settings.max_sidecar_bytes
    if sidecar.size > limit:
        message = f"{name} has {sidecar.size:,} bytes, the limit is {limit:,} (BATCH_MAX_SIDECAR_BYTES)."
        return BatchOptions(), Reason("invalid_options", message, is_refusal=True)
    try:
        return parse_options(_from_json(name, system.store.read(sidecar.key))), None
    except NotFoundError:
        return BatchOptions(), None  # taken away meanwhile
    except RefusedError as error:
        return BatchOptions(), Reason.of(error)


def _from_json(name: str, text: bytes) -> Any:
    """The value of the JSON text. Raises RefusedError (`invalid_options`)."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = f"{name} is no JSON: {error}."
    except RecursionError:
        message = f"{name} is nested too deep for options."
    except ValueError:  # Python's limit for integers, by default 4,300 digits
        message = f"{name} has a number of too many digits."
    raise RefusedError("invalid_options", message)
