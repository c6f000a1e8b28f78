"""Whom the run of a large batch asks for help: idle Celery workers. With the default launcher nobody.

Imports nothing of Celery unless the settings name it: each run imports this module.
"""

from collections.abc import Callable

from batch_pipeline.orchestration.celery_extra import require_celery
from batch_pipeline.phases.attempt import HelpRequest
from batch_pipeline.settings import Settings


def call_helpers(settings: Settings) -> Callable[[HelpRequest, int], None]:
    """The function that offers a phase to other workers (`Attempt.call_helpers`)."""

    def call(request: HelpRequest, number: int) -> None:
        if settings.launcher == "default":
            return
        require_celery()
        from batch_pipeline.orchestration.celery_helpers import send_help_requests

        send_help_requests(request, number)

    return call
