"""The second part of the demonstration: a plan that warns of a wrong file, the right file applied, and an undo.

Each batch is launched by the running system, as those of its users are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Batch, Starter
from batch_pipeline.batches.options import BatchOptions, UndoOptions
from batch_pipeline.batches.organizations import create_organization
from batch_pipeline.batches.states import AT_REST, BatchStatus
from batch_pipeline.errors import UnavailableError
from batch_pipeline.intake.undoing import request_undo
from batch_pipeline.local.demo import DemoSystem
from batch_pipeline.orchestration.run_attempt import cancelled_reason
from batch_pipeline.storage import keys

_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 120.0  # maximum time of one of these small batches on a slow machine

_PEOPLE = ("Ann Ames", "Bob Bell", "Cid Cole", "Dee Dunn", "Eva Ekes", "Fay Ford")

_STORED = "external_id,name,notes\n" + "".join(f"p{n},{name},called {n}\n" for n, name in enumerate(_PEOPLE))
_SHIFTED = "external_id,name,notes\n" + "".join(f"p{n},called {n},{name}\n" for n, name in enumerate(_PEOPLE))
_RIGHT = (
    "external_id,name,notes\n"
    + "".join(f"p{n},{name},moved\n" for n, name in enumerate(_PEOPLE))
    + "p6,Gus Gray,new\np7,Hal Hyde,new\n"
)
_LATER = "external_id,notes\np0,asked for Friday\n"


@dataclass(frozen=True)
class Step:
    """One step of this part.

    Attributes:
        title: what is done.
        batch: the batch after it.
        expected: its status, and the counts of its plan or statistics that are not zero.
    """

    title: str
    batch: Batch
    expected: tuple[str, dict[str, int]] = field(default=("", {}))

    @property
    def difference(self) -> str | None:
        """What is not as expected, as text."""
        plan = self.batch.plan if self.batch.status is BatchStatus.planned else None
        counts = self.batch.counts if plan is None else plan["counts"]
        actual = (self.batch.status.value, {name: count for name, count in counts.items() if count})
        return None if actual == self.expected else f"{self.title}: is {actual}, not {self.expected}"


def plan_apply_undo(demo: DemoSystem, show: Callable[[Step], None]) -> list[Step]:
    """Runs the steps in an organization of their own, and calls `show` after each.

    Raises ServiceEndedError if a part of the system ends, UnavailableError if a batch gets nowhere.
    """
    organization = f"{demo.organization}-plans"
    create_organization(demo.system.engine, organization)
    steps: list[Step] = []

    def done(title: str, batch: Batch, status: BatchStatus, **counts: int) -> Batch:
        steps.append(Step(title, _settled(demo, batch), (status.value, counts)))
        show(steps[-1])
        return steps[-1].batch

    completed, planned = BatchStatus.completed, BatchStatus.planned
    done("six contacts are stored", _accept(demo, organization, "people.csv", _STORED), completed, created=6)
    wrong = _accept(demo, organization, "shifted.csv", _SHIFTED, plan_only=True)
    done("the plan of a file with shifted columns", wrong, planned, update=6)
    demo.system.ledger.end(wrong.id, BatchStatus.failed, cancelled_reason)
    right = _accept(demo, organization, "moved.csv", _RIGHT, plan_only=True)
    done("the plan of the right file", right, planned, create=2, update=6)
    demo.system.ledger.request_apply(right.id, Starter.launcher)
    done("the right file is applied", right, completed, created=2, updated=6)
    done("somebody edits a contact", _accept(demo, organization, "later.csv", _LATER), completed, updated=1)
    undo = request_undo(demo.system, right.id, starter=Starter.launcher, options=UndoOptions())
    done("the right file is undone, the later edit stays", undo, completed, reversed=5, deleted=2, kept=1)
    return steps


def _accept(demo: DemoSystem, organization: str, name: str, text: str, *, plan_only: bool = False) -> Batch:
    options = BatchOptions(plan_only=plan_only)
    batch_id = new_batch_id()
    key = keys.upload(batch_id, name, saved=True)
    demo.system.store.write(key, text.encode())
    new = NewBatch(
        id=batch_id,
        organization_id=organization,
        resource="contact",
        action=Action.merge,
        name=name,
        options=options,
        source_key=name,
        updated_by="demo",
    )
    return accept(demo.system.engine, new, payload=ArrivedPayload(key, saved=True, starter=Starter.launcher)).batch


def _settled(demo: DemoSystem, batch: Batch) -> Batch:
    """The batch once no run works on it and none is requested."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (found := demo.system.ledger.get(batch.id)).status not in AT_REST or found.awaits_run is not None:
        demo.local.check()
        if time.monotonic() > deadline:
            raise UnavailableError(
                "dagster",
                f"Batch {batch.id} is {found.status} after {_PATIENCE_SECONDS:.0f} s. "
                f"See the logs in {demo.local.log_folder}.",
            )
        time.sleep(_POLL_SECONDS)  # other processes run the batch, and only the ledger shows how far
    return found
