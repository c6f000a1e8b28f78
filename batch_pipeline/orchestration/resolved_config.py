"""Run config that Dagster checks and resolves once for a run in this process, instead of three times.

Dagster resolves it for the execution plan, for the run and for its ops. That takes a small batch as long as planning.
There is no setting for it, so the name by which Dagster's modules call it is replaced. Other runs resolve as before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from dagster import JobDefinition
from dagster._core.execution import api, context_creation_job
from dagster._core.system_config.objects import ResolvedRunConfig

_Resolved = tuple[JobDefinition, Mapping[str, object] | None, ResolvedRunConfig]

_last: ContextVar[list[_Resolved] | None] = ContextVar("resolved_run_config", default=None)


class _ResolvedOnce(ResolvedRunConfig):
    @staticmethod
    def build(job_def: JobDefinition, run_config: Mapping[str, object] | None = None) -> ResolvedRunConfig:
        last = _last.get()
        if last and last[0][0] is job_def and last[0][1] == run_config:
            return last[0][2]
        resolved = ResolvedRunConfig.build(job_def, run_config)
        if last is not None:
            last[:] = [(job_def, run_config, resolved)]
        return resolved


@contextmanager
def resolving_once() -> Iterator[None]:
    """Within the context, this thread's runs keep the config that was resolved last."""
    for module in (api, context_creation_job):
        module.ResolvedRunConfig = _ResolvedOnce  # type: ignore[attr-defined] # not exported
    token = _last.set([])
    try:
        yield
    finally:
        _last.reset(token)
