"""Forked processes begin a run without the imports that take a new interpreter seconds."""

import sys

from batch_runs import arrived, new_organization

from batch_pipeline.orchestration.forking import end_processes, forked_executor
from batch_pipeline.orchestration.workers import _execute
from batch_pipeline.system import System

IMPORTED = "sorted(__import__('sys').modules)"


def test_a_forked_process_has_imported_the_packages_that_a_run_uses(system: System) -> None:
    batch = arrived(system, new_organization(system), b"name\nAda\n")
    executor = forked_executor()
    try:
        before = set(executor.submit(eval, IMPORTED).result())
        assert executor.submit(_execute, batch.id).result() is None
        after = set(executor.submit(eval, IMPORTED).result())
    finally:
        end_processes(executor)
    assert system.ledger.get(batch.id).status == "completed"
    packages, late = ({name.partition(".")[0] for name in names} for names in (before, after - before))
    assert late - packages - sys.stdlib_module_names == set()
