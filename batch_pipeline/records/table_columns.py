"""The columns of the resources' tables, for the code location, which must not import the resources' modules.

`table_columns.json` repeats what the modules define. ``python -m batch_pipeline.records.table_columns`` writes it, and
a test compares the two.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("table_columns.json")


@dataclass(frozen=True)
class Column:
    """A column of a table of records."""

    name: str
    sql_type: str
    required: bool
    description: str


@cache
def _read() -> dict[str, list[Column]]:
    listed = json.loads(FILE.read_text(encoding="utf-8"))
    return {resource: [Column(**column) for column in columns] for resource, columns in listed.items()}


def read_columns(resource: str) -> list[Column]:
    """The columns of the resource's table. Raises KeyError."""
    return _read()[resource]


def describe_columns() -> dict[str, list[Column]]:
    """The columns of every resource's table, from the resources' modules."""
    from batch_pipeline.records.descriptions import all_resources
    from batch_pipeline.records.value_texts import value_text

    common = [
        Column("organization_id", "text", True, "the organization whose record it is"),
        Column("batch_id", "text", False, "the batch that last wrote the record"),
        Column("created_at", "timestamptz", True, "when the record was created"),
        Column("updated_at", "timestamptz", True, "when the record was last changed"),
    ]
    return {
        resource.name: [
            *(
                Column(field.name, field.sql_type, field.required or field.name == "id", value_text(field))
                for field in resource.fields
                if field.is_column
            ),
            *common,
        ]
        for resource in all_resources()
    }


def columns_text() -> str:
    """The content of `table_columns.json`."""
    described = {resource: [asdict(column) for column in columns] for resource, columns in describe_columns().items()}
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(columns_text(), encoding="utf-8")
