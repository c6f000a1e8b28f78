"""Webhooks: the addresses at which an organization wants to be told of its batches, and the secrets that sign.

A secret is shown once. It has to be stored as it is, because it signs; it is in a table of its own.
"""

import base64
import ipaddress
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from batch_pipeline.batches.ids import ALPHABET, LENGTH, new_id
from batch_pipeline.batches.organizations import get_organization
from batch_pipeline.batches.outbox import EventType
from batch_pipeline.batches.tables import webhook_deliveries, webhook_secrets, webhooks
from batch_pipeline.database import single_statements, translating_outages
from batch_pipeline.errors import NotFoundError, RefusedError, StateError

WEBHOOK_PREFIX = "whk_"
SECRET_PREFIX = "whsec_"  # noqa: S105 - of Standard Webhooks
ROTATION = timedelta(hours=24)  # how long the previous secret signs as well
MOST_WEBHOOKS = 20  # of an organization: each costs every batch a delivery
MOST_URL_CHARACTERS = 2000
_SECRET_BYTES = 32  # Standard Webhooks: 24 to 64

_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_REST = rf"://{_HOST}(:{_PORT})?([/?][!-\x22$-~]*)?"
URL_PATTERN = f"^https{_REST}$"
_URL = re.compile(f"https?{_REST}")
WEBHOOK_ID_PATTERN = f"^{WEBHOOK_PREFIX}[{ALPHABET}]{{{LENGTH}}}$"
_WEBHOOK_ID = re.compile(WEBHOOK_ID_PATTERN[1:-1])


@dataclass(frozen=True)
class Webhook:
    """A webhook, without its secrets."""

    id: str
    organization_id: str
    url: str
    events: tuple[str, ...]  #: the types that it subscribes to
    created_at: datetime
    disabled_at: datetime | None  #: when its receiver answered 410

    def to_json(self) -> dict[str, Any]:
        """The webhook in answers; times in whole epoch seconds."""
        return {
            "object": "webhook",
            "id": self.id,
            "organization_id": self.organization_id,
            "url": self.url,
            "events": list(self.events),
            "created_at": int(self.created_at.timestamp()),
            "disabled_at": None if self.disabled_at is None else int(self.disabled_at.timestamp()),
        }


@dataclass(frozen=True)
class SecretWebhook:
    """A webhook with its new secret, which can't be shown again."""

    webhook: Webhook
    secret: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As `Webhook.to_json`, with the secret."""
        return {**self.webhook.to_json(), "secret": self.secret}


def create_webhook(
    engine: sa.Engine, organization_id: str, url: str, events: Iterable[str] = (), *, allows_private: bool
) -> SecretWebhook:
    """Creates a webhook for the event types, by default all. It gets only events of later changes.

    `allows_private`: the deployment's settings allow private networks, so that http and private addresses may be right.

    Raises NotFoundError (`unknown_organization`), RefusedError (`invalid_url`, `unknown_event`) and StateError
    (`too_many_webhooks`).
    """
    get_organization(engine, organization_id)
    _check_url(url, allows_private=allows_private)
    values = {
        "id": new_id(WEBHOOK_PREFIX),
        "organization_id": organization_id,
        "url": url,
        "events": _event_types(events),
    }
    own = sa.select(sa.func.count()).select_from(webhooks).where(webhooks.c.organization_id == organization_id)
    with translating_outages(), engine.begin() as connection:
        if connection.execute(own).scalar_one() >= MOST_WEBHOOKS:
            raise StateError(
                "too_many_webhooks",
                f"Organization {organization_id} has {MOST_WEBHOOKS} webhooks already: delete one first.",
            )
        row = connection.execute(sa.insert(webhooks).values(values).returning(webhooks)).one()
        return SecretWebhook(_from_row(row), _add_secret(connection, row.id))


def list_webhooks(engine: sa.Engine, organization_id: str | None = None) -> list[Webhook]:
    """All webhooks, or those of one organization, ordered by creation."""
    statement = sa.select(webhooks).order_by(webhooks.c.created_at, webhooks.c.id)
    if organization_id is not None:
        statement = statement.where(webhooks.c.organization_id == organization_id)
    with translating_outages(), single_statements(engine).begin() as connection:
        return [_from_row(row) for row in connection.execute(statement)]


def get_webhook(engine: sa.Engine, webhook_id: str, organization_id: str | None = None) -> Webhook:
    """The webhook. Raises NotFoundError (`webhook_not_found`), with `organization_id` also for another one's."""
    with translating_outages(), single_statements(engine).begin() as connection:
        return _from_row(_get_row(connection, webhook_id, organization_id))


def rotate_secret(engine: sa.Engine, webhook_id: str, organization_id: str | None = None) -> SecretWebhook:
    """Makes a new secret. For `ROTATION` the previous secret signs as well; older ones end at once.

    Raises as `get_webhook`.
    """
    now = sa.func.clock_timestamp()
    of_webhook = webhook_secrets.c.webhook_id == webhook_id
    with translating_outages(), engine.begin() as connection:
        webhook = _from_row(_get_row(connection, webhook_id, organization_id, lock=True))
        connection.execute(sa.delete(webhook_secrets).where(of_webhook, webhook_secrets.c.valid_until.is_not(None)))
        connection.execute(sa.update(webhook_secrets).where(of_webhook).values(valid_until=now + ROTATION))
        return SecretWebhook(webhook, _add_secret(connection, webhook.id))


def delete_webhook(engine: sa.Engine, webhook_id: str, organization_id: str | None = None) -> Webhook:
    """Deletes the webhook with its secrets and deliveries; returns what it was. Raises as `get_webhook`."""
    with translating_outages(), engine.begin() as connection:
        webhook = _from_row(_get_row(connection, webhook_id, organization_id, lock=True))
        connection.execute(sa.delete(webhook_deliveries).where(webhook_deliveries.c.webhook_id == webhook.id))
        connection.execute(sa.delete(webhook_secrets).where(webhook_secrets.c.webhook_id == webhook.id))
        connection.execute(sa.delete(webhooks).where(webhooks.c.id == webhook.id))
    return webhook


def valid_secrets(connection: sa.Connection, webhook_ids: Iterable[str]) -> dict[str, list[str]]:
    """The secrets that sign for each webhook, newest first."""
    statement = (
        sa.select(webhook_secrets.c.webhook_id, webhook_secrets.c.secret)
        .where(
            webhook_secrets.c.webhook_id.in_(set(webhook_ids)),
            sa.or_(webhook_secrets.c.valid_until.is_(None), webhook_secrets.c.valid_until > sa.func.clock_timestamp()),
        )
        .order_by(webhook_secrets.c.created_at.desc())
    )
    found: dict[str, list[str]] = {}
    for row in connection.execute(statement):
        found.setdefault(row.webhook_id, []).append(row.secret)
    return found


def _add_secret(connection: sa.Connection, webhook_id: str) -> str:
    secret = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    connection.execute(sa.insert(webhook_secrets).values(webhook_id=webhook_id, secret=secret))
    return secret


def _get_row(
    connection: sa.Connection, webhook_id: str, organization_id: str | None, *, lock: bool = False
) -> sa.Row[Any]:
    statement = sa.select(webhooks).where(webhooks.c.id == webhook_id)
    if organization_id is not None:
        statement = statement.where(webhooks.c.organization_id == organization_id)
    row = None
    if _WEBHOOK_ID.fullmatch(webhook_id):
        row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        raise NotFoundError("webhook_not_found", "There is no webhook of this id: the list of webhooks shows them.")
    return row


def _from_row(row: sa.Row[Any]) -> Webhook:
    return Webhook(**{**row._mapping, "events": tuple(row.events)})


def _event_types(events: Iterable[str]) -> list[str]:
    known = [kind.value for kind in EventType]
    wanted = set(events)
    if unknown := sorted(wanted - set(known)):
        raise RefusedError("unknown_event", f"There is no event {unknown[0][:100]!r}: use {', '.join(known)}.")
    return [kind for kind in known if not wanted or kind in wanted]


def _check_url(url: str, *, allows_private: bool) -> None:
    """Raises RefusedError (`invalid_url`). What the host's name leads to is checked at each call."""
    scheme = "https:// or http://" if allows_private else "https://"
    if len(url) > MOST_URL_CHARACTERS or not _URL.fullmatch(url) or not (allows_private or url.startswith("https:")):
        raise RefusedError(
            "invalid_url",
            f"The URL must begin with {scheme} and a host's name in ASCII, without user, password and fragment, and "
            f"have at most {MOST_URL_CHARACTERS:,} characters.",
        )
    host = str(urlsplit(url).hostname)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if not allows_private and not address.is_global:
        raise RefusedError("invalid_url", "The URL's host is not a public address: give a host that is.")
