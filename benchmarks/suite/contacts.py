"""The contestants of the cases that load contacts: psql, dlt and ours, each on the same state with the same file."""

from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.suite import psql
from benchmarks.suite.dlt_table import Dlt
from benchmarks.suite.model import Contestant, Sample
from benchmarks.suite.ours import run_batch
from benchmarks.suite.world import World

OURS, PSQL, PSQL_NEW = "ours", "psql", "psql, all new"
DLT, DLT_INDEXED = "dlt", "dlt with our indexes"
CLEAN, SAME_ROWS = "ours, clean file", "ours, the usual rows"
DISTINCT = "ours, distinct rows"


def all_new(world: World) -> list[Contestant]:
    """Into empty tables."""
    file = world.files.contacts()
    return [_psql_new(world, PSQL), *_dlt(world, file, restored=False), _new(world, OURS, file, created=world.rows)]


def changed(world: World, every: int | None) -> list[Contestant]:
    """Onto the same contacts, of which every so-many-th is changed; None: none."""
    file = world.files.contacts() if every is None else world.files.changed(every)
    with_ids = world.files.with_ids(file)
    updated = 0 if every is None else world.rows // every
    _keep(world)

    def by_hand() -> Sample:
        world.restore()
        sample = psql.upsert(world.url, with_ids)
        _expect(world.count(batch="psql"), world.rows)
        return sample

    def ours() -> Sample:
        world.restore()
        sample, batch = run_batch(world.environment, file)
        stats = batch["stats"]
        _expect((stats["updated"], stats["unchanged"]), (updated, world.rows - updated))
        return sample

    reference = [] if every == 1 else [_psql_new(world, PSQL_NEW)]
    contestants = [Contestant(PSQL, by_hand), *_dlt(world, file, restored=True), Contestant(OURS, ours)]
    return [*reference, *contestants]


def rejected(world: World) -> list[Contestant]:
    """A file in which every tenth row has a fault, beside the clean one."""
    bad = -(-world.rows // 10)
    return [
        _new(world, CLEAN, world.files.contacts(), created=world.rows),
        _new(world, OURS, world.files.spoiled(), created=world.rows - bad),
    ]


def overwrite(world: World) -> list[Contestant]:
    """70 % of the contacts come again unchanged, the others are removed."""
    file = world.files.first(0.7)
    with_ids = world.files.with_ids(file)
    kept = int(world.rows * 0.7)
    _keep(world)

    def by_hand() -> Sample:
        world.restore()
        sample = psql.overwrite(world.url, with_ids)
        _expect(world.count(), kept)
        return sample

    def ours() -> Sample:
        world.restore()
        sample, _ = run_batch(world.environment, file, action="overwrite")
        _expect(world.count(), kept)
        return sample

    return [Contestant(PSQL, by_hand), Contestant(OURS, ours)]


def delete(world: World) -> list[Contestant]:
    """All contacts, by id."""
    _keep(world)
    ids = world.files.folder / "ids-to-delete.csv"
    if not ids.exists():
        with psycopg.connect(world.url) as connection, ids.open("w", encoding="utf-8") as file:
            file.write("id\n")
            rows = connection.execute("SELECT id FROM kept_contacts ORDER BY external_id")
            file.writelines(f"{row[0]}\n" for row in rows)

    def by_hand() -> Sample:
        world.restore()
        sample = psql.delete(world.url, ids)
        _expect(world.count(), 0)
        return sample

    def ours() -> Sample:
        world.restore()
        sample, _ = run_batch(world.environment, ids, action="delete")
        _expect(world.count(), 0)
        return sample

    return [Contestant(PSQL, by_hand), Contestant(OURS, ours)]


def tenfold(world: World) -> list[Contestant]:
    """Ten times the rows, all new, beside the usual number of them."""
    rows = world.rows * 10
    file = world.files.contacts(rows)
    with_ids = world.files.with_ids(file)

    def by_hand() -> Sample:
        world.clear()
        sample = psql.upsert(world.url, with_ids)
        _expect(world.count(), rows)
        return sample

    return [
        _new(world, SAME_ROWS, world.files.contacts(), created=world.rows),
        Contestant(PSQL, by_hand),
        _new(world, OURS, file, created=rows),
    ]


def equal_rows(world: World) -> list[Contestant]:
    """Five times the rows, all of them equal, beside as many distinct ones."""
    rows = world.rows * 5
    return [
        _new(world, DISTINCT, world.files.contacts(rows), created=rows),
        _new(world, OURS, world.files.equal(rows), created=1),
    ]


def _new(world: World, name: str, file: Path, *, created: int) -> Contestant:
    """Ours, into empty tables."""

    def ours() -> Sample:
        world.clear()
        sample, batch = run_batch(world.environment, file)
        _expect(batch["stats"]["created"], created)
        return sample

    return Contestant(name, ours)


def _psql_new(world: World, name: str) -> Contestant:
    """psql with all contacts, into an empty table: what most marks compare with."""
    with_ids = world.files.with_ids(world.files.contacts())

    def by_hand() -> Sample:
        world.clear()
        sample = psql.upsert(world.url, with_ids)
        _expect(world.count(), world.rows)
        return sample

    return Contestant(name, by_hand)


def _dlt(world: World, file: Path, *, restored: bool) -> list[Contestant]:
    """dlt, without and with our indexes on its table. Raises ContestantMissingError when it is to be measured."""

    def measured(*, indexed: bool) -> Callable[[], Sample]:
        def measure() -> Sample:
            table = Dlt(world)
            if restored:
                table.keep()
            table.prepare(restored=restored, indexed=indexed)
            sample = table.load(world.files.with_ids(file))
            _expect(table.count(), world.rows)
            return sample

        return measure

    return [Contestant(DLT, measured(indexed=False)), Contestant(DLT_INDEXED, measured(indexed=True))]


def _keep(world: World) -> None:
    """Loads the contacts by a batch, once, for all cases that start from them."""
    if "contacts" in world.kept:
        return
    world.clear()
    run_batch(world.environment, world.files.contacts())
    world.keep()


def _expect(found: object, expected: object) -> None:
    if found != expected:
        raise RuntimeError(f"a contestant left {found}, expected was {expected}")
