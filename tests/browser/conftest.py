"""A running system and a browser before it; what the tests see is kept as pictures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_ui import PATIENCE_SECONDS, Browser

from batch_pipeline.local.system import LocalSystem

CHROMIUM = Path("/usr/bin/chromium")  # Debian's

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs a browser where there is none."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not CHROMIUM.exists():
            item.add_marker(pytest.mark.skip(reason=f"there is no {CHROMIUM}"))


@pytest.fixture(scope="module")
def system_settings() -> dict[str, str]:
    # No re-runs: the engineer re-executes the run.
    return {"BATCH_CHUNK_ROWS": "100", "BATCH_DATABASE_WRITERS": "1", "BATCH_RERUNS": "0", "BATCH_SYNC_WORKERS": "1"}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: the folder that TEST_ARTIFACTS names, else pytest's own."""
    folder = Path(os.environ.get("TEST_ARTIFACTS") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
