"""Organizations are the tenants. An organization's name is its id."""

import re
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from batch_pipeline.batches.tables import organizations
from batch_pipeline.database import (
    Connection,
    borrowed_for_statements,
    rows_by_name,
    single_statements,
    statement_text,
    translating_outages,
)
from batch_pipeline.errors import NotFoundError, RefusedError, StateError

DEFAULT_ORGANIZATION = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_ORGANIZATION = statement_text(sa.select(organizations).where(organizations.c.id == sa.bindparam("name")))


@dataclass(frozen=True)
class Organization:
    """A tenant; `region` is the default for national phone numbers (ISO 3166, two letters)."""

    id: str
    region: str


def create_organization(engine: sa.Engine, name: str, region: str = "US") -> Organization:
    """Creates an organization.

    Raises RefusedError (`invalid_organization`, `invalid_region`), and StateError (`organization_exists`).
    """
    if not _NAME.fullmatch(name):
        raise RefusedError(
            "invalid_organization",
            f"{name!r} can't name an organization: use 1 to 63 lower-case letters, digits, - and _, "
            "beginning with a letter or digit.",
        )
    from phonenumbers import SUPPORTED_REGIONS  # commands that only look an organization up don't wait for its import

    if region not in SUPPORTED_REGIONS:
        raise RefusedError("invalid_region", f"{region!r} is not a region: use a two-letter code such as US or DE.")
    statement = (
        insert(organizations).values(id=name, region=region).on_conflict_do_nothing().returning(organizations.c.id)
    )
    with translating_outages(), engine.begin() as connection:
        if connection.execute(statement).one_or_none() is None:
            raise StateError("organization_exists", f"The organization {name} exists already.")
    return Organization(name, region)


def list_organizations(engine: sa.Engine) -> list[Organization]:
    """All organizations, ordered by name."""
    with translating_outages(), single_statements(engine).begin() as connection:
        rows = connection.execute(sa.select(organizations).order_by(organizations.c.id))
        return [Organization(row.id, row.region) for row in rows]


def get_organization(engine: sa.Engine, name: str) -> Organization:
    """The organization with this name. Raises NotFoundError (`unknown_organization`)."""
    with translating_outages(), borrowed_for_statements(engine) as connection:
        return read_organization(connection, name)


def read_organization(connection: Connection, name: str) -> Organization:
    """As `get_organization`, over a connection."""
    row = rows_by_name(connection).execute(_ORGANIZATION, {"name": name}).fetchone()
    if row is None:
        raise NotFoundError(
            "unknown_organization",
            f"There is no organization {name!r}: make it with `batch-pipeline organizations create`.",
        )
    return Organization(row["id"], row["region"])
