"""The demonstration: sample files go into the inbox of a whole local system, and every number is checked.

Nothing is simulated. The files are copied into the inbox folder, the sensor finds them, and Dagster's daemon launches
their runs, including the run that retries rejected items. The command `demo` shows the progress.
"""

import json
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.batches.states import FINAL
from batch_pipeline.batches.stats import Stats
from batch_pipeline.errors import UnavailableError
from batch_pipeline.intake.rejected_items import create_from_rejected
from batch_pipeline.local.announcing import Report
from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.samples import RejectedFrom, Sample, csv_text
from batch_pipeline.local.system import LocalServers, LocalSystem, local_system
from batch_pipeline.storage import keys
from batch_pipeline.system import System, open_system

_POLL_SECONDS = 0.3
# Maximum time without progress of any batch: more than a step takes on a slow machine.
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class DemoSystem:
    """The running system, and the two organizations of this demonstration."""

    local: LocalSystem
    servers: LocalServers
    system: System
    organization: str
    club: str

    def organization_of(self, sample: Sample) -> str:
        """The organization that gets the sample."""
        return self.club if sample.is_clubs else self.organization


@dataclass(frozen=True)
class Outcome:
    """A sample and its batch, which is None until the sample has been taken in."""

    sample: Sample
    batch: Batch | None

    @property
    def is_final(self) -> bool:
        """Whether the batch has ended."""
        return self.batch is not None and self.batch.status in FINAL


@contextmanager
def demo_system(data_dir: Path, *, report: Report) -> Iterator[DemoSystem]:
    """Starts the local system of ``data_dir`` on free ports, with new organizations. For the main thread.

    Raises the errors of `local_system`.
    """
    with local_system(data_dir, port=free_port(), api_port=free_port(), s3_port=None, report=report) as local:
        if local.servers is None:
            raise UnavailableError("storage", "The demonstration needs embedded servers: unset BATCH_DATABASE_URL.")
        with open_system() as system:
            # New organizations, so that the numbers don't depend on earlier demonstrations.
            organization = f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            club = f"{organization}-club"
            create_organization(system.engine, organization)
            create_organization(system.engine, club)
            try:
                yield DemoSystem(local, local.servers, system, organization, club)
            except BaseException:
                local.hurry()  # the sample batches need not end
                raise


def process_samples(
    demo: DemoSystem, samples: Sequence[Sample], show: Callable[[Sequence[Outcome]], None]
) -> list[Outcome]:
    """Puts the samples into the inbox and waits until all batches have ended; calls ``show`` with their progress.

    Raises ServiceEndedError if a part of the system ends, UnavailableError if no batch makes progress.
    """
    moved_at, progress = time.monotonic(), ""
    waiting = list(samples)
    outcomes = _outcomes(demo, samples)
    while not all(outcome.is_final for outcome in outcomes):
        by_title = {outcome.sample.title: outcome for outcome in outcomes}
        for sample in [sample for sample in waiting if _is_due(demo, sample, by_title)]:
            _send(demo, sample, by_title)
            waiting.remove(sample)
        demo.local.check()
        if (now := _progress(outcomes)) != progress:
            moved_at, progress = time.monotonic(), now
        elif time.monotonic() - moved_at > _PATIENCE_SECONDS:
            raise UnavailableError(
                "dagster",
                f"No batch made progress for {_PATIENCE_SECONDS:.0f} s: {progress}. "
                f"See the logs in {demo.local.log_folder}.",
            )
        time.sleep(_POLL_SECONDS)
        outcomes = _outcomes(demo, samples)
        show(outcomes)
    return outcomes


def differences(demo: DemoSystem, outcome: Outcome) -> list[str]:
    """A line for each number of the sample's batch that differs from the expected number."""
    expected, batch = outcome.sample.expected, outcome.batch
    if batch is None:
        return ["was never taken in"]
    reason = None if batch.reason is None else batch.reason.code
    found: list[tuple[str, object, object]] = [
        ("status", expected.status, batch.status),
        ("reason", expected.reason, reason),
    ]
    found += [
        (field.name, getattr(expected.stats, field.name), getattr(batch.stats, field.name)) for field in fields(Stats)
    ]
    codes = _error_codes(demo.system, batch)
    found += [
        (f"errors {code}", expected.codes.get(code, 0), codes[code]) for code in sorted({*expected.codes, *codes})
    ]
    return [f"{what} is {actual}, not {wanted}" for what, wanted, actual in found if wanted != actual]


def errors_file(demo: DemoSystem, batch: Batch) -> Path:
    """The path of the batch's errors.csv on this machine."""
    return demo.servers.storage_folder / keys.errors_csv(batch.id)


def _outcomes(demo: DemoSystem, samples: Sequence[Sample]) -> list[Outcome]:
    """Each sample with its batch. Several batches of one key belong to its samples in the order of creation."""
    by_origin: dict[str | None, list[Batch]] = {}
    for organization in (demo.organization, demo.club):
        for batch in demo.system.ledger.find(organization_id=organization, newest_first=False):
            by_origin.setdefault(batch.retry_of or batch.source_key, []).append(batch)
    outcomes: dict[str, Outcome] = {}
    for sample in samples:
        arrived: list[Batch] = []
        if not isinstance(sample.content, RejectedFrom):
            arrived = by_origin.get(_key(demo, sample), [])
        elif (original := outcomes[sample.content.title].batch) is not None:
            arrived = by_origin.get(original.id, [])
        outcomes[sample.title] = Outcome(sample, arrived.pop(0) if arrived else None)
    return list(outcomes.values())


def _key(demo: DemoSystem, sample: Sample) -> str:
    return f"{keys.INBOX}/{demo.organization_of(sample)}/{sample.folder}/{sample.name}"


def _progress(outcomes: Sequence[Outcome]) -> str:
    """The batches that have not ended, with their status, as text."""
    pending = []
    for outcome in outcomes:
        if outcome.batch is None:
            pending.append(f"{outcome.sample.title} not taken in")
        elif not outcome.is_final:
            done = sum(phase.processed for phase in outcome.batch.phases)
            pending.append(f"{outcome.sample.title} {outcome.batch.status} ({done:,} items seen)")
    return ", ".join(pending)


def _is_due(demo: DemoSystem, sample: Sample, outcomes: Mapping[str, Outcome]) -> bool:
    if sample.after is not None:
        before = outcomes[sample.after]
        if before.batch is None or (sample.once_ended and not before.is_final):
            return False
    # A batch is recorded before its file leaves the inbox. A file copied over it in between could be lost.
    if not isinstance(sample.content, RejectedFrom) and (demo.servers.storage_folder / _key(demo, sample)).exists():
        return False
    return sample.made_of is None or outcomes[sample.made_of].is_final


def _send(demo: DemoSystem, sample: Sample, outcomes: Mapping[str, Outcome]) -> None:
    """Puts the sample into the inbox, or creates its batch."""
    if isinstance(sample.content, bytes):
        _put_into_inbox(demo, sample, sample.content)
        return
    origin = outcomes[sample.content.title].batch
    if origin is None:
        raise ValueError(f"{sample.title} is made from a batch that does not exist")
    if isinstance(sample.content, RejectedFrom):
        create_from_rejected(demo.system, origin.id, starter=Starter.launcher)
        return
    results = json.loads(demo.system.store.read(keys.result_json(origin.id))) if origin.has_result_file else []
    ids = {result["external_id"]: result["id"] for result in results}
    wanted = [ids.get(each, "") for each in sample.content.external_ids]
    _put_into_inbox(demo, sample, csv_text(("id",), [[each] for each in (*wanted, *sample.content.more)]).encode())


def _put_into_inbox(demo: DemoSystem, sample: Sample, content: bytes) -> None:
    """Copies the sidecar, then the file."""
    folder = demo.servers.inbox / demo.organization_of(sample) / sample.folder
    with tempfile.TemporaryDirectory() as elsewhere:
        file = Path(elsewhere) / sample.name
        file.write_bytes(content)
        sidecar = file.with_name(file.name + keys.OPTIONS_SUFFIX)
        folder.mkdir(parents=True, exist_ok=True)
        if sample.options is not None:
            sidecar.write_text(json.dumps(sample.options))
            shutil.copy(sidecar, folder)
        shutil.copy(file, folder)


def _error_codes(system: System, batch: Batch) -> Counter[str]:
    if not batch.has_errors_file:
        return Counter()
    entries = json.loads(system.store.read(keys.errors_json(batch.id)))
    return Counter(error["code"] for entry in entries for error in entry["errors"])
