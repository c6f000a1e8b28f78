"""Pages of batches equal slices of all batches, sorted and counted, and use only indexes."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.batches.facts import BatchFacts
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.listing import (
    KIND,
    Filters,
    first_page_statement,
    kinds_statement,
    list_page,
    page_statement,
    total_statement,
)
from batch_pipeline.batches.model import Mode, Via, initial_phases
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.batches.stats import Stats
from batch_pipeline.database import create_engine

VALUES: dict[str, tuple[str, ...]] = {
    "resource": ("contact", "group", "asset"),
    "action": ("merge", "delete"),
    "mode": ("mixed", "sync"),
    "via": ("api", "file"),
    "status": ("requested", "failed", "completed"),
}
NUMBER = 400


def fill(connection: "psycopg.Connection[Any]", organization_id: str, number: int) -> None:
    """So many batches of random kinds; many were created at the same moment."""
    chance = random.Random(number)  # noqa: S311 - repeatable, not secret
    shape = (
        json.dumps([phase.to_row() for phase in initial_phases(Mode.mixed, Via.file)]),
        json.dumps(Stats().__dict__),
        json.dumps(BatchFacts().to_row()),
        json.dumps({"duplicate_handling": "ignore_all", "save_upload": True, "save_result": False}),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO batches (id, organization_id, name, phases, stats, work, options, created_at,"
            " resource, action, mode, via, status)"
            " VALUES (%s, %s, 'name', %s, %s, %s, %s, to_timestamp(%s), %s, %s, %s, %s, %s)",
            [
                (
                    f"batch_{organization_id}{chance.random()}",
                    organization_id,
                    *shape,
                    chance.randrange(100),
                    *(chance.choice(VALUES[name]) for name in KIND),
                )
                for _ in range(number)
            ],
        )


@pytest.fixture(scope="module")
def engine(module_database_url: str) -> Iterator[sa.Engine]:
    with psycopg.connect(module_database_url) as connection:
        for organization_id in ("one", "other"):
            fill(connection, organization_id, NUMBER)
    made = create_engine(module_database_url)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def expected(module_database_url: str, engine: sa.Engine) -> list[tuple[str, ...]]:
    """Id and kind of every batch of organization `one`, in order."""
    with psycopg.connect(module_database_url) as connection:
        return connection.execute(
            "SELECT id, resource, action, mode, via, status FROM batches WHERE organization_id = 'one'"
            " ORDER BY created_at, id"
        ).fetchall()


@settings(max_examples=examples(40, thorough=300))
@given(
    chosen=st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()}),
    place=st.tuples(st.integers(1, 40) | st.just(10**9), st.integers(1, 100), st.booleans()),
)
def test_a_page_equals_a_slice_of_all_batches_sorted(
    engine: sa.Engine,
    expected: list[tuple[str, ...]],
    chosen: dict[str, str],
    place: tuple[int, int, bool],
) -> None:
    page, limit, newest_first = place
    matching = [row[0] for row in expected if all(row[1 + KIND.index(name)] == value for name, value in chosen.items())]
    if newest_first:
        matching.reverse()
    found = list_page(engine, "one", Filters(**chosen), page=page, limit=limit, newest_first=newest_first)
    assert [batch["id"] for batch in found.batches] == matching[(page - 1) * limit : page * limit]
    if found.batches:
        assert found.batches[0] == Ledger(engine).get(found.batches[0]["id"]).to_json()
    assert found.total_count == len(matching)
    assert found.has_more == (page * limit < len(matching))


def test_totals_follow_every_change(database_url: str) -> None:
    engine = create_engine(database_url)
    ledger = Ledger(engine)

    def totals() -> list[int]:
        statuses = ("requested", "failed", "completed", None)
        return [list_page(engine, "one", Filters(status=status), page=1, limit=1).total_count for status in statuses]

    with psycopg.connect(database_url, autocommit=True) as connection:
        fill(connection, "one", 1_500)
        connection.execute("UPDATE batches SET status = 'requested'")
        assert totals() == [1_500, 0, 0, 1_500]
        for row in connection.execute("SELECT id FROM batches LIMIT 7").fetchall():
            ledger.end(row[0], BatchStatus.failed, Reason("x", "y"))
        assert totals() == [1_493, 7, 0, 1_500]
        connection.execute("DELETE FROM batches WHERE status = 'failed'")
        connection.execute("UPDATE batches SET resource = NULL WHERE id IN (SELECT id FROM batches LIMIT 3)")
        assert totals() == [1_490, 0, 0, 1_490]
    engine.dispose()


def test_every_page_of_every_filter_is_found_by_indexes(database_url: str) -> None:
    """Among 20,000 batches no plan reads the table or sorts what it skips."""
    engine = create_engine(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        fill(connection, "one", 500)
        connection.execute(
            "INSERT INTO batches (id, organization_id, name, phases, stats, work, options, created_at,"
            " resource, action, mode, via, status)"
            " SELECT id || n, organization_id, name, phases, stats, work, options,"
            " created_at + make_interval(secs => n), resource, action, mode, via, status"
            " FROM batches, generate_series(1, 39) AS n"
        )
        connection.execute("VACUUM ANALYZE batches")
    filters = [
        Filters(**dict(zip(names, values, strict=True)))
        for names in (
            *itertools.combinations(KIND, 0),
            *itertools.combinations(KIND, 1),
            *itertools.combinations(KIND, 2),
        )
        for values in itertools.product(*(VALUES[name][:2] for name in names))
    ]
    with engine.connect() as connection:
        for newest_first in (False, True):
            first_page = first_page_statement(newest_first=newest_first).params(organization_id="one", limit=25)
            plan = _plan(connection, first_page)
            assert not any(node.get("Relation Name") == "batches" for node in plan if node["Node Type"] == "Seq Scan")
            assert all(node["Plan Rows"] <= 25 for node in plan if node["Node Type"] == "Sort")
        for each in filters:
            counted = kinds_statement("one", each) if each.given() else total_statement("one")
            assert {node["Node Type"] for node in _plan(connection, counted)} & {"Index Only Scan"}, each
            rows = connection.execute(counted).all()
            kinds = sorted(tuple(row[:-1]) for row in rows)
            total = sum(row[-1] for row in rows)
            for offset, newest_first in ((0, False), (total // 2, True), (max(0, total - 25), False)):
                statement = page_statement(
                    "one",
                    kinds if each.given() else None,
                    total=total,
                    offset=offset,
                    wanted=min(25, total - offset),
                    newest_first=newest_first,
                )
                plan = _plan(connection, statement)
                assert not any(
                    node.get("Relation Name") == "batches" for node in plan if node["Node Type"] == "Seq Scan"
                )
                sorted_rows = [node["Plan Rows"] for node in plan if node["Node Type"] == "Sort"]
                assert all(rows <= 25 for rows in sorted_rows), (each, offset)
    engine.dispose()


def _plan(connection: sa.Connection, statement: sa.Select[Any]) -> list[dict[str, Any]]:
    """The nodes of the plan."""
    compiled = statement.compile(connection, compile_kwargs={"render_postcompile": True})
    (found,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {compiled}", compiled.params).scalar_one()
    nodes = [found["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", ()))
    return nodes
