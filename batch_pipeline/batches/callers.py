"""Row-level security of the API's connections: each transaction acts for the API key of one call.

PostgreSQL shows a connection of role `bp_api` only the rows of the organization whose API key the setting
`batch_pipeline.api_key` proves. `act_for` names the key for the current call; each transaction of an engine of
`create_api_engine` begins by setting it, and it ends with the transaction. A transaction of no call, or after the first
of a borrowed connection, sees no rows.
"""

import hashlib
from contextvars import ContextVar

import sqlalchemy as sa

from batch_pipeline.database import Connection, create_engine
from batch_pipeline.errors import SettingError

SETTING = "batch_pipeline.api_key"
# Threads of an API process that work for calls. Each keeps a connection: a new one costs more than a call.
CALL_THREADS = 16

# In the call's context: threads and tasks that the call starts have it as well.
_proof: ContextVar[str] = ContextVar("api_key_proof", default="")

# Tables whose rows are of organizations. A table of another program in `public` doesn't count.
_CHECK = """\
SELECT r.rolname, r.rolsuper, r.rolbypassrls,
       (SELECT min(m.rolname) FROM pg_roles m
        WHERE pg_has_role(r.oid, m.oid, 'MEMBER')
          AND (m.rolsuper OR m.rolbypassrls OR EXISTS (SELECT FROM pg_class WHERE relowner = m.oid)
               OR EXISTS (SELECT FROM pg_policy
                          WHERE (m.oid = ANY (polroles) OR 0 = ANY (polroles))
                            AND pg_get_expr(polqual, polrelid) = 'true'))),
       (SELECT min(c.oid::regclass::text)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm')
          AND (n.nspname IN ('staging', 'dagster')
               OR n.nspname = 'public' AND (c.relname = 'organizations' OR EXISTS (
                   SELECT FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname IN ('organization_id', 'batch_id', 'webhook_id'))))
          AND has_schema_privilege(r.oid, n.oid, 'USAGE') AND has_any_column_privilege(r.oid, c.oid, 'SELECT')
          AND NOT row_security_active(c.oid))
FROM pg_roles r WHERE r.rolname = current_user"""


def act_for(key_id: str, secret: str) -> None:
    """Makes the transactions of this call act for the key with this id and secret, whether or not it exists."""
    # The hash is what the database stores. So the secret is in no log of the database.
    _proof.set(f"{key_id}:{hash_secret(secret).hex()}")


def hash_secret(secret: str) -> bytes:
    """The SHA-256 of a key's secret, as the database stores it."""
    return hashlib.sha256(secret.encode()).digest()


def create_api_engine(database_url: str, *, row_security: bool) -> sa.Engine:
    """An engine whose transactions act for the key of `act_for`.

    With `row_security`, its connections raise SettingError, one line, if their role could read rows of other keys'
    organizations.
    """
    return create_engine(
        database_url,
        on_connect=require_row_security if row_security else None,
        on_begin=_prove,
        kept_connections=CALL_THREADS,
    )


def require_row_security(connection: Connection) -> None:
    """Raises SettingError if the connection's role, or a role that it can become, is not restricted by row security."""
    row = connection.execute(_CHECK).fetchone()
    connection.rollback()
    assert row is not None  # noqa: S101 - the current user is a role
    role, is_superuser, bypasses, other, table = row
    if is_superuser:
        why = "is a superuser"
    elif bypasses:
        why = "has BYPASSRLS"
    elif other is not None:
        why = f"has the rights of {other}"
    elif table is not None:
        why = f"reads all rows of {table}"
    else:
        return
    raise SettingError(
        f"The API must not connect as {role}, which {why} and so reads every organization's rows: set "
        "BATCH_API_DATABASE_URL to a URL with role bp_api (`batch-pipeline db roles` prints the SQL that makes it), or "
        "BATCH_API_ROW_SECURITY=off to run without this protection"
    )


def _prove(connection: Connection) -> None:
    # A parameter: other sessions of the same role see the text of statements.
    connection.execute("SELECT set_config(%s, %s, true)", (SETTING, _proof.get()))
