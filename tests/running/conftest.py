"""One running system, which the tests of this folder share; each has an organization of its own.

Some stop a part of it, and start it again.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from process_table import command_of
from serving import PATIENCE_SECONDS
from systems import NewDatabase, new_system, running_system

from batch_pipeline.local.processes import kill_group, start_process
from batch_pipeline.local.system import LocalSystem
from batch_pipeline.system import System
from running.dagster_ui import Browser

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from playwright.sync_api import BrowserContext

KillPart = Callable[[str], Callable[[], None]]
CHROMIUM = Path("/usr/bin/chromium")  # Debian's
# The UI moves while a run does. Without a graphics card, the processor draws each frame.
FEW_FRAMES = """
window.requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 250);
window.cancelAnimationFrame = clearTimeout;
addEventListener("DOMContentLoaded", () => {
  const still = document.createElement("style");
  still.textContent = "* { animation: none !important; transition: none !important }";
  document.head.append(still);
});
"""


@pytest.fixture(scope="package")
def system_settings() -> dict[str, str]:
    return {
        "BATCH_CHUNK_ROWS": "100",
        "BATCH_DATABASE_WRITERS": "1",
        "BATCH_API_REQUESTS_PER_MINUTE": "1000000",
        "BATCH_MIXED_WAIT_SECONDS": str(PATIENCE_SECONDS),  # on a busy machine validation may take long
        "BATCH_SYNC_TURN_SECONDS": str(PATIENCE_SECONDS),
        "BATCH_SYNC_WORKERS": "1",
        "BATCH_RERUNS": "0",  # the engineer on call re-executes the run
        "BATCH_LOG_FORMAT": "json",
    }


# These three replace the fixtures of tests/conftest.py, which live for one file: this folder shares one system.
@pytest.fixture(scope="package")
def module_system(
    new_dagster_database: NewDatabase, environment: dict[str, str], system_settings: dict[str, str]
) -> Iterator[System]:
    with new_system(new_dagster_database, environment, system_settings) as opened:
        yield opened


@pytest.fixture(scope="package")
def module_instance(module_system: System) -> Iterator["DagsterInstance"]:
    from batch_pipeline.orchestration.instance import open_instance

    with open_instance(in_process=True) as opened:
        yield opened


@pytest.fixture(scope="package")
def running(module_system: System) -> Iterator[LocalSystem]:
    del module_system  # os.environ leads to it
    with running_system() as system:
        yield system


@pytest.fixture(scope="package")
def kill_part(running: LocalSystem) -> Iterator[KillPart]:
    """Kills the process with this in its command; what it returns starts another."""
    started: list[subprocess.Popen[bytes]] = []

    def kill(part: str) -> Callable[[], None]:
        (process,) = (child for child in psutil.Process().children(recursive=True) if part in command_of(child))
        command, folder = command_of(process).split(), Path(process.cwd())
        environment = {**os.environ, "BATCH_DAGSTER_URL": running.dagster_url, "BATCH_API_URL": running.api_url}
        process.kill()
        process.wait(PATIENCE_SECONDS)

        def start() -> None:
            log = running.log_folder.parent / f"second-{len(started)}.log"
            second = start_process(
                command, log=log, environment=environment, folder=folder, death_signal=signal.SIGKILL
            )
            started.append(second)

        return start

    yield kill
    for process in started:
        kill_group(process.pid)
        process.wait()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: the folder that TEST_ARTIFACTS names, else pytest's own."""
    folder = Path(os.environ.get("TEST_ARTIFACTS") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="package")
def window() -> Iterator["BrowserContext"]:
    """A window of a browser, which loads and compiles the UI's scripts once for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        opened = chromium.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
        opened.add_init_script(FEW_FRAMES)
        opened.set_default_timeout(PATIENCE_SECONDS * 1000)
        yield opened
        chromium.close()


@pytest.fixture
def browser(
    window: "BrowserContext", running: LocalSystem, pictures: Path, request: pytest.FixtureRequest
) -> Iterator[Browser]:
    """A page before the running system's UI, which remembers nothing; a last picture is taken however the test ends."""
    page = window.new_page()
    seen = Browser(page, running.dagster_url, pictures)
    yield seen
    seen.picture(f"end-of-{request.node.name}")
    stored = {"origin": running.dagster_url, "storageTypes": "local_storage,indexeddb"}
    window.new_cdp_session(page).send("Storage.clearDataForOrigin", stored)
    page.close()
