"""Folders for servers of a test's own, and a look at the processes that a folder has."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from folders import server_folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty folder that every account may enter. At the end no process may be left that uses it."""
    folder = server_folder()
    yield folder
    assert _processes_of(folder) == []
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(open_folder: Path) -> Path:
    """A data directory that doesn't exist yet."""
    return open_folder / "data"


@pytest.fixture(scope="module")
def module_folder() -> Iterator[Path]:
    """A folder that every account may enter, for one module's tests."""
    folder = server_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def used_data_dir(module_folder: Path) -> Iterator[Path]:
    """A data directory that the module's other tests have used, or will: initdb takes longer than starting.

    At the end no process may be left that uses it.
    """
    yield module_folder / "data"
    assert _processes_of(module_folder) == []


@pytest.fixture
def processes_of() -> Callable[[Path], list[str]]:
    """A function that gives the command lines of the processes that work in a folder or have it in their arguments."""
    return _processes_of


def _processes_of(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            if str(folder) in command or process.cwd().startswith(str(folder)):
                found.append(command)
        except psutil.Error:  # ended meanwhile, or another user's
            continue
    return found
