"""Keys for the HTTP API: each belongs to one organization, is shown once, and is stored as a hash only."""

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from batch_pipeline.batches.callers import act_for, hash_secret
from batch_pipeline.batches.ids import ALPHABET, is_batch_id
from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.organizations import get_organization
from batch_pipeline.batches.rows import batch_from_row
from batch_pipeline.batches.tables import api_keys, batches
from batch_pipeline.database import (
    Connection,
    borrowed,
    rows_by_name,
    single_statements,
    statement_text,
    translating_outages,
)
from batch_pipeline.errors import NotFoundError

ID_PREFIX = "key_"
_ID_CHARACTERS = 16
_SECRET_CHARACTERS = 43  # base58, 252 bits: enough entropy for a fast hash per request
_KEY = re.compile(f"(key_[{ALPHABET}]{{{_ID_CHARACTERS}}})_([{ALPHABET}]{{{_SECRET_CHARACTERS}}})")
_UNKNOWN_KEY_HASH = bytes(32)
# Every call of the API executes one of these two. SQLAlchemy takes longer to execute a statement than PostgreSQL and
# psycopg together, so it only writes them.
_BY_ID = statement_text(sa.select(api_keys).where(api_keys.c.id == sa.bindparam("key_id")))
_BATCH = statement_text(
    sa.select(batches).where(
        batches.c.id == sa.bindparam("batch_id"), batches.c.organization_id == sa.bindparam("organization_id")
    )
)


@dataclass(frozen=True)
class ApiKey:
    """A key as stored: without its secret."""

    id: str
    organization_id: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A new key; `key` is what callers send. It is not stored, so it can't be shown again."""

    id: str
    organization_id: str
    key: str = field(repr=False)


def create_key(engine: sa.Engine, organization_id: str) -> NewKey:
    """Creates a key for the organization. Raises NotFoundError (`unknown_organization`)."""
    get_organization(engine, organization_id)
    key_id, secret = ID_PREFIX + _random(_ID_CHARACTERS), _random(_SECRET_CHARACTERS)
    values = {"id": key_id, "organization_id": organization_id, "secret_hash": hash_secret(secret)}
    with translating_outages(), engine.begin() as connection:
        connection.execute(sa.insert(api_keys).values(values))
    return NewKey(key_id, organization_id, f"{key_id}_{secret}")


def list_keys(engine: sa.Engine, organization_id: str | None = None) -> list[ApiKey]:
    """All keys, or those of one organization, ordered by creation; revoked keys are included."""
    statement = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
    if organization_id is not None:
        statement = statement.where(api_keys.c.organization_id == organization_id)
    with translating_outages(), single_statements(engine).begin() as connection:
        return [_from_row(row._asdict()) for row in connection.execute(statement)]


def revoke_key(engine: sa.Engine, key_id: str) -> ApiKey:
    """Revokes a key at once and permanently. Idempotent. Raises NotFoundError (`unknown_key`)."""
    statement = (
        sa.update(api_keys)
        .where(api_keys.c.id == key_id)
        .values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, sa.func.clock_timestamp()))
        .returning(api_keys)
    )
    row = None
    if "\x00" not in key_id:
        with translating_outages(), engine.begin() as connection:
            row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFoundError("unknown_key", "There is no key of this id: `batch-pipeline keys list` shows them.")
    return _from_row(row._asdict())


def act_for_key(key: str) -> None:
    """Makes the transactions of this call act for the key that its caller sent; for none if it is malformed."""
    parts = _KEY.fullmatch(key)
    act_for(*(("", "") if parts is None else parts.groups()))


def find_key(engine: sa.Engine, key: str) -> ApiKey | None:
    """The stored key that matches the key a caller sent; None if it is unknown or revoked.

    An unknown id takes the same steps as a wrong secret, so that timing does not reveal which ids exist.
    """
    parts = _KEY.fullmatch(key)
    if parts is None:  # refused without the database
        return None
    with translating_outages(), borrowed(engine) as connection:
        return _find(connection, *parts.groups())


def find_key_and_batch(engine: sa.Engine, key: str, batch_id: str) -> tuple[ApiKey, Batch | None] | None:
    """As `find_key`, with the batch of this id if it is of the key's organization: in one transaction."""
    parts = _KEY.fullmatch(key)
    if parts is None:
        return None
    with translating_outages(), borrowed(engine) as connection:
        found = _find(connection, *parts.groups())
        if found is None:
            return None
        if not is_batch_id(batch_id):
            return found, None
        names = {"batch_id": batch_id, "organization_id": found.organization_id}
        row = rows_by_name(connection).execute(_BATCH, names).fetchone()
    return found, None if row is None else batch_from_row(row)


def _find(connection: Connection, key_id: str, secret: str) -> ApiKey | None:
    row = rows_by_name(connection).execute(_BY_ID, {"key_id": key_id}).fetchone()
    expected = _UNKNOWN_KEY_HASH if row is None else bytes(row["secret_hash"])
    is_right = hmac.compare_digest(hash_secret(secret), expected)
    if row is None or not is_right or row["revoked_at"] is not None:
        return None
    return _from_row(row)


def _from_row(row: Mapping[str, Any]) -> ApiKey:
    return ApiKey(row["id"], row["organization_id"], row["created_at"], row["revoked_at"])


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
