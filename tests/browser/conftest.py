"""A running system and a browser before it; what the tests see is kept as pictures."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.system import LocalSystem, local_system
from batch_pipeline.system import System

CHROMIUM = Path("/usr/bin/chromium")  # Debian's
PATIENCE_SECONDS = 150.0  # for what takes seconds on a machine that isn't overloaded

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a browser where there is none."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not CHROMIUM.exists():
            item.add_marker(pytest.mark.skip(reason=f"there is no {CHROMIUM}"))


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    return {"BATCH_CHUNK_ROWS": "100", "BATCH_DATABASE_WRITERS": "1"}


@pytest.fixture(scope="module")
def running(module_system: System) -> Iterator[LocalSystem]:
    """The running system, on this module's database and storage."""
    folder = Path(tempfile.mkdtemp(prefix="batch-pipeline-tests-", dir="/var/tmp"))
    with local_system(folder / "data", port=free_port(), api_port=free_port(), s3_port=None) as system:
        yield system
        system._supervisor.hurry()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: the folder that TEST_ARTIFACTS names, else pytest's own."""
    folder = Path(os.environ.get("TEST_ARTIFACTS") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Browser:
    """A page of the Dagster UI, with pictures of what it shows."""

    def __init__(self, page: "playwright.Page", address: str, pictures: Path) -> None:
        self.page = page
        self._address = address
        self._pictures = pictures

    def go(self, path: str) -> None:
        """Opens a page of the UI."""
        self.page.goto(f"{self._address}{path}")

    def sees(self, text: str, *, exact: bool = False) -> None:
        """Waits until the page shows the text."""
        self.page.get_by_text(text, exact=exact).first.wait_for(state="visible")

    def picture(self, name: str) -> None:
        """Keeps what is to be seen now."""
        self.page.screenshot(path=self._pictures / f"{name}.png")


@pytest.fixture
def browser(running: LocalSystem, pictures: Path, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """A page before the running system's UI; a last picture is taken however the test ends."""
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = chromium.new_page(viewport={"width": 1440, "height": 1000})
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        seen = Browser(page, running.dagster_url, pictures)
        yield seen
        seen.picture(f"end-of-{request.node.name}")
        chromium.close()
