"""The contestants of the cases that load other formats and another resource. psql has no counterpart for them."""

from pathlib import Path

from benchmarks.suite.model import Contestant, Sample
from benchmarks.suite.ours import run_batch
from benchmarks.suite.world import World

CSV, JSON, XLSX = "ours, CSV", "ours, JSON", "ours, XLSX"
OURS = "ours"


def formats(world: World) -> list[Contestant]:
    """A fifth of the contacts as CSV, JSON and XLSX."""
    rows = world.rows // 5
    files = {
        CSV: world.files.contacts(rows),
        JSON: world.files.json_contacts(rows),
        XLSX: world.files.xlsx_contacts(rows),
    }
    return [_new(world, name, file, "contact", rows) for name, file in files.items()]


def shipments(world: World) -> list[Contestant]:
    """A tenth as many shipments with nested JSON: parties, parcels, metadata."""
    rows = world.rows // 10
    return [_new(world, OURS, world.files.shipments(rows), "shipment", rows)]


def _new(world: World, name: str, file: Path, resource: str, rows: int) -> Contestant:
    def ours() -> Sample:
        world.clear()
        sample, batch = run_batch(world.environment, file, resource=resource)
        if batch["stats"]["created"] != rows:
            raise RuntimeError(f"{file.name} created {batch['stats']['created']} records of {rows}")
        return sample

    return Contestant(name, ours)
