"""The inbox folders of the embedded store, and renaming of files with names that S3 can't have."""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from batch_pipeline.local.private_files import private_folder, private_opener
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.storage.keys import OPTIONS_SUFFIX

# rclone removes a folder with its last object. A name that begins with a dot does not become a batch.
_KEEPER = ".keep"
_UNDECODABLE = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are not UTF-8


def make_inbox_folders(inbox: Path, organizations: Iterable[str]) -> None:
    """Creates a folder for every action of every resource of the organizations. Empty folders stay."""
    for organization in organizations:
        for name, resource in RESOURCES.items():
            for action in resource.actions:
                folder = private_folder(inbox / organization / name / action.value)
                with open(folder / _KEEPER, "ab", opener=private_opener):
                    pass


def rename_undecodable(inbox: Path, *, quiet_seconds: float) -> list[str]:
    """Renames files and folders in the inbox if their names are not UTF-8; returns a line about each.

    rclone lists such a file with U+FFFD in its name and answers 404 when it is read, so it would stay in the inbox
    unnoticed. Each byte that is not UTF-8 becomes ``_``. A file is left for the
    next call if it changed within ``quiet_seconds``, because it may still be copied, or if its new name is in use.
    Control characters need no change: rclone lists and reads them as U+2400 and following.
    """
    root = os.fsencode(inbox)
    quiet_since = time.time() - quiet_seconds
    lines = []
    for folder, folders, files in os.walk(root, topdown=False):
        # Sidecars first, because their file may be taken in as soon as it has its new name.
        for name in sorted((*files, *folders), key=lambda each: not each.endswith(os.fsencode(OPTIONS_SUFFIX))):
            new_name = _UNDECODABLE.sub("_", name.decode("utf-8", "surrogateescape")).encode()
            old, new = os.path.join(folder, name), os.path.join(folder, new_name)
            if old == new or os.path.lexists(new):
                continue
            shown = os.path.relpath(old, root).decode("utf-8", "backslashreplace")
            try:
                if name in folders or os.stat(old).st_mtime <= quiet_since:
                    os.rename(old, new)
                    lines.append(f"Inbox: renamed {shown} to {new_name.decode()}, as S3 names are UTF-8")
            except OSError as error:
                lines.append(f"Inbox: {shown} is not UTF-8 and can't be renamed ({error.strerror}): rename it")
    return lines
