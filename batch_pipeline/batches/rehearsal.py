"""Executes the ledger's statements of a whole batch once, so that the first batch of a process is not slower.

SQLAlchemy compiles a statement when it first meets it, and a server process plans it with empty caches.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, cast

import sqlalchemy as sa

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Action, Mode, Phase, PhaseName, Starter, Via
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.batches.organizations import read_organization
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.batches.stats import Stats
from batch_pipeline.database import Connection, driver_connection, translating_outages
from batch_pipeline.errors import NotFoundError


def rehearse(engine: sa.Engine, connections: int) -> None:
    """Takes a batch without items from its creation to its end, and rolls it back; on each of so many connections.

    Nobody sees the batch: it is in no list, count or order of arrival, and no webhook hears of it. Raises
    UnavailableError.
    """
    with translating_outages(), ExitStack() as opened:
        # All are open at once: a connection that was returned would be lent again.
        for connection in [opened.enter_context(engine.connect()) for _ in range(connections)]:
            with connection.begin() as transaction:
                _complete_a_batch(connection)
                transaction.rollback()


def _complete_a_batch(connection: sa.Connection) -> None:
    # The organization does not exist, so that no batch waits for its place in the order of arrival.
    batch_id = run_id = organization_id = new_batch_id()
    ledger = _RehearsedLedger(connection)
    new = NewBatch(
        batch_id,
        organization_id,
        "contact",
        Action.merge,
        name="rehearsal",
        options=BatchOptions(),
        mode=Mode.sync,
        via=Via.api,
    )
    with suppress(NotFoundError):
        read_organization(driver_connection(connection), organization_id)
    accept(ledger.engine, new, payload=ArrivedPayload("", False, Starter.caller))
    ledger.get(batch_id)
    ledger.begin_attempt(batch_id, run_id, Phase(PhaseName.parsing))
    ledger.of_run(run_id)
    ledger.attempt_seconds(run_id)
    for name in PhaseName:
        ledger.check_live(batch_id, run_id)
        ledger.update_phase(batch_id, run_id, Phase(name), durably=False)
    facts = BatchFacts(format="json").to_row()
    ledger.update_phase(batch_id, run_id, Phase(PhaseName.parsing))
    planned = Phase(PhaseName.validation)
    ledger.update_phase(batch_id, run_id, Phase(PhaseName.parsing), planned, work=facts, checksum="")
    ledger.transition(batch_id, run_id, BatchStatus.queued, planned, work=facts, plan_version=0)
    ledger.transition(batch_id, run_id, BatchStatus.processing, Phase(PhaseName.processing), durably=False)
    ledger.transition(
        batch_id,
        run_id,
        BatchStatus.completed,
        Phase(PhaseName.cleanup),
        stats=Stats().to_json(),
        has_errors_file=False,
        error_summary=None,
        has_result_file=False,
    )


class _RehearsedLedger(Ledger):
    """A ledger that changes batches in the connection's transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        super().__init__(cast("sa.Engine", _OneTransaction(connection)))
        self._connection = driver_connection(connection)

    def _for_statements(self) -> AbstractContextManager[Connection]:
        return nullcontext(self._connection)


class _OneTransaction:
    """What the ledger uses of an engine. Its transactions are savepoints of the connection's transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def execution_options(self, **_: Any) -> "_OneTransaction":
        return self

    def get_execution_options(self) -> dict[str, Any]:
        return {}

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        with self._connection.begin_nested():
            yield self._connection

    connect = begin
