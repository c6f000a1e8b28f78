"""Sends messages to the people who run the system, by Apprise: mail, Slack, Teams and many more."""

import logging
import re
from collections.abc import Sequence

from apprise import Apprise, NotifyBase, NotifyFormat, NotifyType
from pydantic import SecretStr

from batch_pipeline.errors import SettingError

logger = logging.getLogger(__name__)

# An address may contain commas, so only one before the next scheme separates.
_SEPARATOR = re.compile(r"[\s,]+(?=[A-Za-z0-9]+://)")


class People:
    """The addresses of BATCH_ALERT_URL. They contain secrets, so neither messages nor logs show them.

    Raises SettingError if Apprise does not know an address.
    """

    def __init__(self, urls: SecretStr) -> None:
        # Apprise logs an address that it can't use.
        logging.getLogger("apprise").disabled = True
        self._services: list[NotifyBase] = []
        for number, url in enumerate(_SEPARATOR.split(urls.get_secret_value().strip(" \t\r\n,")), start=1):
            service = Apprise.instantiate(url, suppress_exceptions=True)
            if not isinstance(service, NotifyBase):
                raise SettingError(
                    f"BATCH_ALERT_URL: address {number} is none that Apprise knows: give addresses such as "
                    "mailtos://user:password@example.com, separated by blanks"
                )
            self._services.append(service)

    def tell(self, title: str, lines: Sequence[str]) -> bool:
        """Sends the message to every address. Returns whether one of them accepted it; logs those that did not."""
        accepted = 0
        for number, service in enumerate(self._services, start=1):
            one = Apprise()
            one.add(service)
            if one.notify(
                body="\n".join(lines), title=title, notify_type=NotifyType.FAILURE, body_format=NotifyFormat.TEXT
            ):
                accepted += 1
            else:
                logger.error("Address %d of BATCH_ALERT_URL did not accept an alert.", number)
        return accepted > 0
