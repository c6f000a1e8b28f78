"""The folders of the embedded store's inbox, so that `cp file …/uploads/default/contact/merge/` works at any time."""

from collections.abc import Iterable
from pathlib import Path

from batch_pipeline.records.registry import RESOURCES

# rclone removes a folder with its last object; names that begin with a dot are no batches.
_KEEPER = ".keep"


def make_inbox_folders(inbox: Path, organizations: Iterable[str]) -> None:
    """Makes a folder for every action of every resource of the organizations, which stays when it is empty."""
    for organization in organizations:
        for resource in RESOURCES.values():
            for action in resource.actions:
                folder = inbox / organization / resource.name / action.value
                folder.mkdir(parents=True, exist_ok=True)
                (folder / _KEEPER).touch()
