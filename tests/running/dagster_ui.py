"""The Dagster UI in a browser."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which may not be installed: then the tests are skipped
    from playwright import sync_api as playwright


_FOLLOW_LINK = "path => { history.pushState(null, '', path); dispatchEvent(new PopStateEvent('popstate')) }"


class Browser:
    """A page of the Dagster UI, with pictures of what it shows."""

    def __init__(self, page: "playwright.Page", address: str, pictures: Path) -> None:
        self.page = page
        self._address = address
        self._pictures = pictures

    def go(self, path: str) -> None:
        """Opens a page of the UI: the first one by its address, the others as a link in the UI does."""
        if self.page.url.startswith(self._address):
            self.page.evaluate(_FOLLOW_LINK, path)  # to load the UI anew takes seconds of processor
        else:
            self.page.goto(f"{self._address}{path}")

    def sees(self, text: str, *, exact: bool = False) -> None:
        """Waits until the page shows the text."""
        self.page.get_by_text(text, exact=exact).first.wait_for(state="visible")

    def with_password(self, password: str) -> "playwright.Page":
        """Another page, in which a person answers the browser's question for a password."""
        browser = self.page.context.browser
        assert browser is not None
        context = browser.new_context(http_credentials={"username": "person", "password": password})
        return context.new_page()

    def picture(self, name: str) -> None:
        """Keeps what is to be seen now."""
        self.page.screenshot(path=self._pictures / f"{name}.png")
