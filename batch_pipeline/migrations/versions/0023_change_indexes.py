"""The change log's B-trees by record go: a partition gets one when its day has ended (`loading/change_indexes.py`).

The statement that writes a chunk pays for no B-tree then (docs/decisions/16). Partitions of today and later get a BRIN
index instead. DEFAULT keeps its B-trees. The next pass of retention makes those of earlier days again.
"""

from datetime import UTC, datetime
from typing import cast

from alembic import op
from psycopg import sql

from batch_pipeline.database import Connection

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

KEYS: dict[str, tuple[str, ...]] = {
    **{f"{resource}_changes": ("record_id",) for resource in ("contact", "group", "shipment", "tracker", "asset")},
    "group_member_changes": ("group_id", "member_id"),
}

_PARTITIONS = """\
SELECT c.relname FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass(%s)"""

_BRIN = """\
CREATE INDEX {name} ON public.{partition} USING brin (
    {column} text_bloom_ops (n_distinct_per_range = 3000), at
) WITH (pages_per_range = 64, autosummarize = on)"""


def upgrade() -> None:
    connection = cast(Connection, op.get_bind().connection.driver_connection)
    today = f"{datetime.now(UTC):%Y%m%d}"
    for log, columns in KEYS.items():
        partitions = [str(row[0]) for row in connection.execute(_PARTITIONS, (f"public.{log}",)).fetchall()]
        for column in columns:
            connection.execute(sql.SQL("DROP INDEX public.{}").format(sql.Identifier(f"{log}_{column}_idx")))
            for partition in partitions:
                day = partition.rpartition("_")[2]
                if day == "default":
                    statement, suffix = "CREATE INDEX {name} ON public.{partition} ({column})", "idx"
                elif day >= today:
                    statement, suffix = _BRIN, "brin"
                else:
                    continue
                connection.execute(
                    sql.SQL(statement).format(
                        name=sql.Identifier(f"{partition}_{column}_{suffix}"),
                        partition=sql.Identifier(partition),
                        column=sql.Identifier(column),
                    )
                )
                if day != "default" and day > today:
                    # The index of an empty table has a filter for the first range. Each insert there would rewrite it.
                    connection.execute(
                        "SELECT brin_desummarize_range(%s::regclass, 0)", (f"public.{partition}_{column}_{suffix}",)
                    )
