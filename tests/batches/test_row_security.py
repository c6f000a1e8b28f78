"""The API's role reads and changes no other organization's row, with any SQL. A role that could is refused."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from batch_runs import Runner, new_organization
from psycopg import sql

from batch_pipeline.batches.accept import IdempotencyKey, NewBatch, accept
from batch_pipeline.batches.api_keys import NewKey, create_key
from batch_pipeline.batches.callers import SETTING, act_for, create_api_engine, hash_secret, require_row_security
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import Action
from batch_pipeline.batches.options import BatchOptions
from batch_pipeline.cli.main import main
from batch_pipeline.database import url_of_role
from batch_pipeline.errors import NotFoundError, SettingError
from batch_pipeline.local.s3 import free_port
from batch_pipeline.migrations.roles import set_up
from batch_pipeline.records.registry import CHANGES_TABLES
from batch_pipeline.settings import get_settings
from batch_pipeline.system import System

# Relations that the role can name, also those that it may not read.
_RELATIONS = """\
SELECT n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_toast' ORDER BY 1, 2"""

# {t}: a relation. {b}: a batch of the other organization. {other}: its id. {key}: the id of its API key.
ATTEMPTS = (
    "SELECT t::text FROM {t} t",
    "SELECT t::text FROM public.batches b CROSS JOIN {t} t",
    "SELECT t::text FROM {t} t RIGHT JOIN public.organizations o ON true",
    "SELECT (SELECT string_agg(t::text, ' ') FROM {t} t)",
    "TABLE {t}",
    "SELECT t::text FROM {t} t TABLESAMPLE SYSTEM (100)",
    "SELECT t::text FROM {t} t WHERE ctid = ANY (ARRAY['(0,1)', '(0,2)', '(0,3)', '(0,4)']::tid[])",
    "SELECT t::text FROM {t} t FOR UPDATE",
    # Operators that fail with the row in their message, before the policy if that were possible.
    "SELECT count(*) FROM {t} t WHERE (t::text)::integer = 1",
    "SELECT count(*) FROM {t} t WHERE 1 / (CASE WHEN t::text LIKE '%%MARK%%' THEN 0 ELSE 1 END) = 1",
    "DO $$ BEGIN RAISE EXCEPTION '%', (SELECT string_agg(t::text, ' ') FROM {t} t); END $$",
    "SELECT query_to_xml('SELECT t::text FROM {t} t', true, true, '')",
    "SELECT cursor_to_xml('c', 100, true, true, '') FROM (SELECT 1) x",
    "EXPLAIN (ANALYZE, VERBOSE) SELECT t::text FROM {t} t",
    "COPY {t} TO STDOUT",
    "COPY (SELECT t::text FROM {t} t) TO STDOUT",
    "SELECT s::text FROM pg_catalog.pg_stats s",
    "SELECT s::text FROM pg_catalog.pg_stats_ext s",
    "SET LOCAL row_security = off; SELECT t::text FROM {t} t",
    "RESET batch_pipeline.api_key; SELECT t::text FROM {t} t",
    "SET LOCAL batch_pipeline.api_key = '{key}'; SELECT t::text FROM {t} t",
    "SET LOCAL batch_pipeline.api_key = '{key}:'; SELECT t::text FROM {t} t",
    "SET LOCAL batch_pipeline.api_key = '{key}:{own_hash}'; SELECT t::text FROM {t} t",
    "SET LOCAL ROLE bp_loader; SELECT t::text FROM {t} t",
    "SET LOCAL SESSION AUTHORIZATION bp_owner; SELECT t::text FROM {t} t",
    "DELETE FROM {t} t RETURNING t::text",
    "WITH gone AS (DELETE FROM {t} t RETURNING t::text) SELECT * FROM gone",
    "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY; SELECT t::text FROM {t} t",
    "CREATE POLICY mine ON {t} USING (true)",
)
FORBIDDEN = (
    "CREATE TEMPORARY TABLE batches (id text)",
    "CREATE FUNCTION public.leak(text) RETURNS boolean LANGUAGE sql COST 0.001 AS 'SELECT true'",
    "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE sql COST 0.001 AS 'SELECT true'",
    "CREATE VIEW public.mine AS SELECT * FROM public.batches",
    "CREATE TABLE staging.mine (id text)",
    "CREATE SCHEMA mine",
    "SELECT pg_read_file('PG_VERSION')",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "SELECT last_value FROM public.batch_arrivals",
    "UPDATE public.batches SET organization_id = '{other}'",
    "UPDATE public.turns SET organization_id = '{other}'",
    "UPDATE public.api_keys SET organization_id = '{other}'",
    "INSERT INTO public.batch_transitions (batch_id, after) VALUES ('{b}', 'failed')",
    "INSERT INTO public.idempotency_keys (organization_id, key, body_hash, batch_id)"
    " VALUES ('{other}', 'k', '', '{b}')",
    'INSERT INTO public.batches SELECT (jsonb_populate_record(b, \'{{"organization_id": "{other}", "id": "x"}}\')).*'
    " FROM public.batches b LIMIT 1",
    'INSERT INTO public.batches SELECT (jsonb_populate_record(b, \'{{"id": "{b}"}}\')).* FROM public.batches b LIMIT 1'
    " ON CONFLICT (id) DO UPDATE SET name = 'mine' RETURNING *",
)


@dataclass(frozen=True)
class Tenant:
    """An organization with records, batches in several states, an idempotency key and an API key."""

    id: str
    batch_id: str
    key: NewKey
    mark: str  # in values of its rows

    @property
    def secret(self) -> str:
        return self.key.key.removeprefix(f"{self.key.id}_")

    @property
    def proof(self) -> str:
        return f"{self.key.id}:{hash_secret(self.secret).hex()}"


def _tenant(system: System) -> Tenant:
    organization_id, mark = new_organization(system), f"MARK{secrets.token_hex(4)}"
    runner = Runner(system, organization_id)
    people = [{"external_id": f"{mark}{number}", "name": mark} for number in range(3)]
    done = runner.csv(*people)
    changed = runner.csv(*({**row, "notes": mark} for row in people))
    with psycopg.connect(system.database_url) as connection:
        for table in ("groups", "shipments", "trackers", "assets"):
            insert = sql.SQL("INSERT INTO {} (organization_id, id, external_id) VALUES (%s, %s, %s)")
            connection.execute(insert.format(sql.Identifier(table)), (organization_id, mark, mark))
    runner.json({"external_id": f"{mark}-member", "name": mark, "groups": [mark]})
    assert (done.status, changed.stats.updated) == ("completed", 3)
    planned = runner.csv({"external_id": f"{mark}0", "name": mark}, plan_only=True)  # its staging tables stay
    assert planned.status == "planned"
    new = NewBatch(
        id=new_batch_id(),
        organization_id=organization_id,
        resource="contact",
        action=Action.merge,
        name=mark,
        options=BatchOptions(),
    )
    accept(system.engine, new, idempotency=IdempotencyKey(mark, b"body"))
    return Tenant(organization_id, done.id, create_key(system.engine, organization_id), mark)


@pytest.fixture(scope="module")
def tenants(module_system: System) -> tuple[Tenant, Tenant]:
    """Two organizations with rows in every table."""
    set_up(module_system.database_url)
    with psycopg.connect(module_system.database_url) as connection:
        name = connection.info.dbname  # rights on a database are not copied with its template
        connection.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
    mine, other = (_tenant(module_system) for _ in range(2))
    with psycopg.connect(module_system.database_url, autocommit=True) as connection:
        connection.execute("ANALYZE")
    return mine, other


@contextmanager
def _as_api(system: System, tenant: Tenant | None) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of role bp_api that acts for the organization's key; it is rolled back."""
    with psycopg.connect(url_of_role(system.database_url, "bp_api")) as connection:
        if tenant is not None:
            connection.execute("SELECT set_config(%s, %s, true)", (SETTING, tenant.proof))
        yield connection
        connection.rollback()


def _all_that_comes(connection: psycopg.Connection[Any], statement: str) -> str:
    """The rows that the statement gives, and the error that it raises, as text. Its transaction is undone."""
    connection.execute("SAVEPOINT before")
    found: list[str] = []
    try:
        if statement.startswith("COPY"):
            with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
                found += [bytes(block).decode() for block in copy]
        else:
            for part in statement.split("; "):
                cursor = connection.execute(part.encode())
            found += map(str, cursor.fetchall() if cursor.description else ())
    except psycopg.Error as error:
        diagnosis = error.diag
        found += [str(error), str(diagnosis.message_detail), str(diagnosis.context)]
    connection.execute("ROLLBACK TO SAVEPOINT before")
    return "\n".join(found)


def test_no_statement_of_the_api_role_reads_a_row_of_another_organization(
    module_system: System, tenants: tuple[Tenant, Tenant]
) -> None:
    mine, other = tenants
    with psycopg.connect(module_system.database_url) as connection:
        relations = connection.execute(_RELATIONS).fetchall()
        ours = [(schema, name) for schema, name, _ in relations if schema not in ("pg_catalog", "information_schema")]
        with_rows = set()
        for schema, name in ours:
            rows = _all_that_comes(connection, f'TABLE "{schema}"."{name}"')
            if other.mark in rows or other.id in rows:
                with_rows.add(name)
    # The test would show nothing if the other organization had no rows.
    assert {"batches", "contacts", "groups", "shipments", "trackers", "assets", "idempotency_keys"} <= with_rows
    assert {"contact_changes", "group_members", "group_member_changes"} <= with_rows
    assert any(schema == "staging" for schema, name in ours if name in with_rows)
    holes = {"b": other.batch_id, "other": other.id, "key": other.key.id, "own_hash": mine.proof.partition(":")[2]}
    seen = set()
    with _as_api(module_system, mine) as connection:
        for schema, name, _ in relations:
            relation = f'"{schema}"."{name}"'
            for attempt in ATTEMPTS if (schema, name) in ours else ATTEMPTS[:1]:
                came = _all_that_comes(connection, attempt.replace("{t}", relation).format(**holes))
                assert other.mark not in came, (attempt, relation)
                assert other.id not in came, (attempt, relation)
                assert "division by zero" not in came or mine.mark in _all_that_comes(connection, f"TABLE {relation}")
                if mine.mark in came or mine.id in came:
                    seen.add(name)
    assert {"batches", "contacts", "contact_changes"} <= seen  # its own rows it reads


def test_the_api_role_changes_nothing_of_another_organization_and_makes_no_objects(
    module_system: System, tenants: tuple[Tenant, Tenant]
) -> None:
    mine, other = tenants
    with _as_api(module_system, mine) as connection:
        for statement in FORBIDDEN:
            filled = statement.format(b=other.batch_id, other=other.id)
            with pytest.raises(psycopg.Error, match=r"permission denied|row-level security"), connection.transaction():
                connection.execute(filled.encode())
        reached = connection.execute("UPDATE public.batches SET name = 'mine' WHERE id = %s", (other.batch_id,))
        assert reached.rowcount == 0


def test_a_transaction_for_no_key_a_wrong_or_a_revoked_key_sees_nothing(
    module_system: System, tenants: tuple[Tenant, Tenant]
) -> None:
    mine, _ = tenants
    tables = ["batches", "contacts", "api_keys", "organizations", "batch_transitions", *CHANGES_TABLES]
    revoked = create_key(module_system.engine, mine.id)
    with psycopg.connect(module_system.database_url) as connection:
        connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = %s", (revoked.id,))
    wrong = [
        None,
        "",
        ":",
        mine.key.id,
        f"{mine.key.id}:{'0' * 64}",
        f"{mine.key.id}:{mine.secret}",
        f"{revoked.id}:{hash_secret(revoked.key.removeprefix(f'{revoked.id}_')).hex()}",
    ]
    for proof in wrong:
        with _as_api(module_system, None) as connection:
            if proof is not None:
                connection.execute("SELECT set_config(%s, %s, true)", (SETTING, proof))
            for table in tables:
                row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
                assert row == (0,), (proof, table)


def test_each_transaction_of_the_api_acts_for_the_key_of_its_call(
    module_system: System, tenants: tuple[Tenant, Tenant]
) -> None:
    """On one pooled connection, and though the ledger's query names no organization."""
    engine = create_api_engine(url_of_role(module_system.database_url, "bp_api"), row_security=True)
    ledger = Ledger(engine)
    for caller, other in (tenants, tenants[::-1], tenants):
        act_for(caller.key.id, caller.secret)
        assert ledger.get(caller.batch_id).organization_id == caller.id
        with pytest.raises(NotFoundError):
            ledger.get(other.batch_id)
        assert {batch.organization_id for batch in ledger.find()} == {caller.id}
    act_for("", "")
    assert ledger.find() == []
    engine.dispose()


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ("SUPERUSER", "is a superuser"),
        ("BYPASSRLS", "has BYPASSRLS"),
        ("IN ROLE bp_owner", "has the rights of bp_"),
        ("IN ROLE bp_loader", "has the rights of bp_loader"),
        ("NOINHERIT IN ROLE bp_loader", "has the rights of bp_loader"),
        ("IN ROLE bp_reader", "has the rights of bp_reader"),
        ("", None),
        ("IN ROLE bp_api", None),
    ],
)
def test_a_role_that_reads_every_organization_is_refused_in_one_line(
    module_system: System, tenants: tuple[Tenant, Tenant], attributes: str, why: str | None
) -> None:
    del tenants
    role = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(module_system.database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN {attributes}".encode())
        try:
            engine = create_api_engine(url_of_role(module_system.database_url, role), row_security=True)
            if why is None:
                engine.connect().close()
            else:
                with pytest.raises(SettingError) as caught:
                    engine.connect()
                assert f"as {role}, which {why}" in caught.value.message
                assert "\n" not in caught.value.message
            engine.dispose()
        finally:
            admin.execute(f"DROP ROLE {role}".encode())


@pytest.mark.parametrize("role", ["bp_owner", "bp_loader", "bp_reader"])
def test_the_other_roles_of_the_system_are_refused_for_the_api(
    module_system: System, tenants: tuple[Tenant, Tenant], role: str
) -> None:
    del tenants
    with (
        psycopg.connect(url_of_role(module_system.database_url, role)) as connection,
        pytest.raises(SettingError, match=f"as {role}, which"),
    ):
        require_row_security(connection)


def test_the_api_does_not_start_with_a_role_that_reads_every_organization(
    module_system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del module_system  # os.environ leads to it
    monkeypatch.delenv("BATCH_API_DATABASE_URL")
    get_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["api", "--port", str(free_port())])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    *progress, line = printed.err.splitlines()
    assert all(text.endswith("…") for text in progress)
    assert "batch-pipeline db roles" in line
    assert "BATCH_API_ROW_SECURITY=off" in line
    get_settings.cache_clear()
