"""Folders and files that only their owner can read: logs and objects hold customers' data."""

import os
from pathlib import Path


def private_folder(path: Path) -> Path:
    """Creates the folder and its missing parents with mode 0700, or sets that mode. Returns the folder."""
    if not path.parent.exists():
        private_folder(path.parent)  # mkdir(parents=True) would give them the umask's mode
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return path


def data_folder(path: Path) -> Path:
    """Creates a data directory unless it exists; an existing one keeps its mode. Returns its absolute path.

    The mode is 0700; for root it is 0711, because root's PostgreSQL runs under another account.
    """
    path = path.resolve()
    path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    return path


def private_opener(path: str, flags: int) -> int:
    """For ``open(…, opener=private_opener)``: a file that it creates gets mode 0600."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Writes the file, with mode 0600, atomically: a reader sees the old text or the whole new text."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(unfinished, "w", encoding="utf-8", opener=private_opener) as file:
        file.write(text)
    unfinished.rename(path)
