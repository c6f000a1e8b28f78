"""Completes the ids of batches in a shell: `batch-pipeline --install-completion`, then TAB."""

from pathlib import Path

import typer

from batch_pipeline.errors import BatchError

MOST = 50


def complete_batch_ids(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The ids of the organization's newest batches that begin like this, each with its status and name.

    None if no server is running, because completing must start none, or if it can't be reached: there is no place for a
    message on the line that is being typed.
    """
    from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DEFAULT_ORGANIZATION
    from batch_pipeline.cli.session import open_ledger
    from batch_pipeline.local.system import is_up
    from batch_pipeline.settings import get_settings

    organization = str(context.params.get("organization") or DEFAULT_ORGANIZATION)
    data_dir = Path(context.params.get("data_dir") or DEFAULT_DATA_DIR)
    try:
        if get_settings().database_url is None and not is_up(data_dir):
            return []
        with open_ledger(data_dir) as (ledger, _):
            found = ledger.find(organization_id=organization, or_unknown_organization=True, limit=MOST)
    except BatchError:
        return []
    return [(batch.id, f"{batch.status}, {batch.name}") for batch in found if batch.id.startswith(incomplete)]
