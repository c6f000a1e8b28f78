"""What passes between ops: which batch the run is about. The ledger knows that, so nothing is stored.

A re-execution from failure, on any machine, asks the ledger which batch its parent run was an attempt of.
"""

from dataclasses import dataclass

from dagster import InitResourceContext, InputContext, IOManager, OutputContext, io_manager

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.errors import StateError


@dataclass(frozen=True)
class BatchReference:
    """A batch of the ledger; its phases' files and tables are found by it."""

    batch_id: str


class LedgerIOManager(IOManager):
    """Hands on `BatchReference`s by way of the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handle_output(self, context: OutputContext, obj: BatchReference) -> None:
        """Only notes the reference in the run's events: the ledger has it already."""
        context.add_output_metadata({"batch": obj.batch_id})

    def load_input(self, context: InputContext) -> BatchReference:
        """The batch of the run that made the output."""
        assert context.upstream_output is not None  # noqa: S101 - inputs of this job come from ops only
        run_id = context.upstream_output.run_id
        batch = self._ledger.of_run(run_id)
        if batch is None:
            raise StateError("unknown_run", f"The ledger knows no batch of run {run_id}: re-execute all of it.")
        return BatchReference(batch.id)


@io_manager(required_resource_keys={"system"})
def ledger_io_manager(context: InitResourceContext) -> LedgerIOManager:
    """The IO manager of a run, over the run's own ledger."""
    return LedgerIOManager(context.resources.system.system.ledger)
