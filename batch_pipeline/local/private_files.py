"""Folders and files that only their owner can read: logs and objects hold customers' data."""

import os
from pathlib import Path


def private_folder(path: Path) -> Path:
    """Makes the folder and its missing parents with mode 0700, and gives an existing one that mode. Returns it."""
    if not path.parent.exists():
        private_folder(path.parent)  # mkdir(parents=True) would give them the umask's mode
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)
    return path


def data_folder(path: Path) -> Path:
    """Makes a data directory where there is none; an existing one keeps its mode. Returns its absolute path.

    Root's PostgreSQL runs under another account, which has to pass through the folder: 0711 then, else 0700.
    """
    path = path.resolve()
    path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    return path


def private_opener(path: str, flags: int) -> int:
    """For ``open(…, opener=private_opener)``: a file that it creates gets mode 0600."""
    return os.open(path, flags, 0o600)


def write_private(path: Path, text: str) -> None:
    """Writes the file, with mode 0600, in one step: a reader sees the old text or all of the new."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with open(unfinished, "w", encoding="utf-8", opener=private_opener) as file:
        file.write(text)
    unfinished.rename(path)
