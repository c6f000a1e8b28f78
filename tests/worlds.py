"""An organization with contacts, groups and memberships, and batches that are run on it."""

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from batch_runs import Row, arrived, as_csv, fetched, insert_rows, new_organization
from driving import run_attempt
from psycopg import sql

from batch_pipeline.batches.model import Batch
from batch_pipeline.database import borrowed
from batch_pipeline.storage import keys
from batch_pipeline.system import System

PREFIXES = {"contacts": "ctct_", "groups": "grp_"}


def record_id(table: str, name: str) -> str:
    """An id of the right form, from a short name."""
    return PREFIXES[table] + name.replace("0", "z").replace("l", "L").rjust(22, "1")


@dataclass(frozen=True)
class World:
    """One organization, whose records have short names as external ids."""

    system: System
    organization_id: str

    @classmethod
    def new(cls, system: System) -> "World":
        return cls(system, new_organization(system))

    def insert(self, table: str, *rows: Row) -> None:
        """Records as another tool might store them; the id follows from the external id or name."""
        named = [{"id": record_id(table, row.get("external_id") or row["name"]), **row} for row in rows]
        insert_rows(self.system, self.organization_id, table, named)

    def join(self, group: str, *contacts: str, primary: bool = False) -> None:
        """Memberships by external ids; `loc_…` as they are."""
        members = [name if name.startswith("loc_") else record_id("contacts", name) for name in contacts]
        rows = [{"group_id": record_id("groups", group), "member_id": each, "is_primary": primary} for each in members]
        insert_rows(self.system, self.organization_id, "group_members", rows)

    def execute(self, statement: sql.Composed, parameters: list[Any]) -> None:
        with borrowed(self.system.engine) as connection:
            connection.execute(statement, parameters)

    def arrived(self, resource: str, items: list[Any], *, flat: bool = False, **options: Any) -> Batch:
        """A batch of these items that awaits its run."""
        payload = as_csv(items) if flat else json.dumps(items).encode()
        name = f"{resource}-{secrets.token_hex(4)}.{'csv' if flat else 'json'}"
        options = {"save_result": True, **options}
        return arrived(self.system, self.organization_id, payload, name=name, resource=resource, **options)

    def run(
        self, resource: str, *items: Any, once_validated: Callable[[], None] = lambda: None, **options: Any
    ) -> Batch:
        """A batch of these items, run to its end."""
        return run_attempt(self.system, self.arrived(resource, list(items), **options), once_validated=once_validated)

    def errors(self, batch: Batch) -> dict[int, list[Row]]:
        """The errors of each rejected item."""
        if not batch.has_errors_file:
            return {}
        entries = json.loads(self.system.store.read(keys.errors_json(batch.id)))
        return {entry["row"]: entry["errors"] for entry in entries}

    def outcomes(self, batch: Batch) -> dict[int, str]:
        """The outcome of each item."""
        result = json.loads(self.system.store.read(keys.result_json(batch.id)))
        return {entry["row"]: entry["outcome"] for entry in result if entry["row"] is not None}

    def rows(self, table: str) -> list[Row]:
        query = sql.SQL("SELECT * FROM {} WHERE organization_id = %s").format(sql.Identifier(table))
        return fetched(self.system, query, (self.organization_id,))

    def members(self) -> dict[tuple[str, str], bool]:
        """Whether each membership is primary, by the external ids of group and contact (ids where there is none)."""
        names = {row["id"]: row["external_id"] for table in PREFIXES for row in self.rows(table)}
        return {
            (names.get(row["group_id"], row["group_id"]), names.get(row["member_id"], row["member_id"])): row[
                "is_primary"
            ]
            for row in self.rows("group_members")
        }

    def groups_of(self, contact: str) -> list[str]:
        return sorted(group for group, member in self.members() if member == contact)

    def members_of(self, group: str) -> list[str]:
        """The group's members, primary ones with a star."""
        return sorted(
            member + "*" * is_primary for (name, member), is_primary in self.members().items() if name == group
        )


def stats(batch: Batch) -> dict[str, int]:
    """What is not zero."""
    assert batch.status == "completed", batch.reason
    return {name: count for name, count in asdict(batch.stats).items() if count}
