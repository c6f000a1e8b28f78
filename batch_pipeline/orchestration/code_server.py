"""Dagster's code server, with run processes that are forked from one that has imported the code.

``python -m batch_pipeline.orchestration.code_server`` takes the flags of ``dagster api grpc``. Dagster starts a new
interpreter for each run, which imports for seconds before the first op. A fork server imports once, before the first
run, and its children begin in milliseconds. Nothing else about the launch of a run changes.
"""

import sys
from multiprocessing import forkserver
from typing import Any

from dagster._cli.api import api_cli
from dagster._grpc import server

from batch_pipeline.dropped_interrupts import repeating_dropped
from batch_pipeline.garbage import collect_what_follows
from batch_pipeline.orchestration.dagster_command import log_as_configured, log_flags
from batch_pipeline.orchestration.forking import fork_context


class ForkingApiServer(server.DagsterApiServer):
    """Dagster's server of one code location; it forks the processes of runs."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._mp_ctx = fork_context()  # type: ignore[assignment] # a fork context has the same methods
        forkserver.ensure_running()  # it imports while this process loads the definitions
        collect_what_follows()


def main() -> None:
    """Runs the code server until it is interrupted."""
    log_as_configured()
    server.DagsterApiServer = ForkingApiServer  # type: ignore[misc] # the command has no setting for it
    with repeating_dropped(KeyboardInterrupt):
        api_cli(["grpc", *sys.argv[1:], *log_flags()])


if __name__ == "__main__":
    main()
