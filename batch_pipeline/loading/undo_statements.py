"""The statements of an undo: the tables that they use, and what the changes of a record are divided into.

The unit of an undo is a field of a record, or a key of a field that merges by key. A unit is a bit (of
`Resource.change_bits`) and a key, which is empty for a whole field.
"""

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from batch_pipeline.database import Connection
from batch_pipeline.loading.merging import initial_value
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import UNION_ALL, Statements
from batch_pipeline.records.fields import Field
from batch_pipeline.records.links import Link, Target
from batch_pipeline.records.references import References
from batch_pipeline.records.resource import Resource

_UNITS_OF_FIELDS = """\
SELECT b.bit, '' AS key FROM unnest({bits}::smallint[]) AS b (bit) WHERE ({alias}.changed >> b.bit) & 1 = 1"""

_UNITS_OF_KEYS = """\
SELECT {bit}::smallint, k.key FROM jsonb_object_keys({alias}.{column}) AS k (key)"""

_REVERSED = """\
CASE WHEN ((s.changed & ~coalesce(k.fields, 0)) >> {bit}) & 1 = 1 THEN s.{name} ELSE r.{name} END"""

# Only the keys that go back are touched: another program may have written nulls into the others.
_REVERSED_KEYS = """\
CASE WHEN s.{name} IS NULL OR jsonb_typeof(r.{name}) <> 'object' THEN r.{name}
        ELSE coalesce(r.{name}, {initial}) - ARRAY(SELECT jsonb_object_keys(s.{name} - coalesce(k.{name}, '{{}}'))) || (
            SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{{}}')
            FROM jsonb_each(s.{name} - coalesce(k.{name}, '{{}}'))
        ) END"""

_KEPT_UNITS = """\
SELECT row, bit_or(1::bigint << bit) FILTER (WHERE key = '') AS fields{keys}
FROM {kept}
WHERE {within}
GROUP BY row"""

_STATE = """\
(CASE WHEN g.{mark} IS NULL THEN 'a' WHEN g.{mark} THEN 'p' ELSE 'm' END)::"char\""""


@dataclass(frozen=True)
class Linked:
    """How records of a resource are linked with those of another.

    Attributes:
        name: the field that shows the links.
        link: the link table as seen from the resource.
        target: the records on the other side.
    """

    name: str
    link: Link
    target: Target


def linked(resource: Resource) -> Linked | None:
    """The links of the resource's records; None if it has none."""
    fields = [field for field in resource.fields if isinstance(field, References)]
    return Linked(fields[0].name, fields[0].link, fields[0].target) if fields else None


def stored_fields(resource: Resource) -> list[Field]:
    """The fields that are columns of the resource's table and that a batch can change."""
    return [field for field in resource.fields if field.is_column and field.name != "id"]


class UndoStatements(Statements):
    """Executes the statements of one undo, in the caller's transaction.

    Further holes of its templates: `log` (the resource's changes), `kept` and `links` (staging tables), and, if the
    resource has links, `link_table`, `link_log`, `own`, `other`, `mark` (its columns), `others` (the table of the other
    side), `state` (of link `g`: a absent, m member, p primary member) and `prefix` (of the other side's ids).

    Further parameters: `undone`, the id of the undone batch, and `since`, a time before its first change.
    """

    def __init__(
        self, connection: Connection, resource: Resource, staging: Staging, parameters: dict[str, Any]
    ) -> None:
        super().__init__(connection, resource, staging, parameters)
        self.linked = linked(resource)
        self._holes: dict[str, sql.Composable] = {
            "log": sql.Identifier("public", resource.changes_table),
            "kept": staging.kept,
            "links": staging.links,
        }
        if self.linked is not None:
            link, target = self.linked.link, self.linked.target
            mark = sql.Identifier(link.mark)
            self._holes |= {
                "link_table": sql.Identifier("public", link.table),
                "link_log": sql.Identifier("public", link.changes_table),
                "own": sql.Identifier(link.own),
                "other": sql.Identifier(link.other),
                "mark": mark,
                "others": sql.Identifier("public", target.table),
                "prefix": sql.Literal(target.id_prefix),
                "state": sql.SQL(_STATE).format(mark=mark),
            }

    def compose(self, template: str, **holes: sql.Composable) -> sql.Composed:
        """The template with its holes filled."""
        return super().compose(template, **(self._holes | holes))

    def reversed_values(self) -> dict[str, sql.Composed]:
        """For each stored field the value of record `r` after the undo of line `s`, whose kept units are `k`."""
        values = {}
        for field in stored_fields(self.resource):
            name, bit = sql.Identifier(field.name), sql.Literal(self.resource.change_bits[field.name])
            if field.merges_by_key:
                value = sql.SQL(_REVERSED_KEYS).format(name=name, initial=initial_value(field))
            else:
                value = sql.SQL(_REVERSED).format(name=name, bit=bit)
            values[field.name] = value
        return values

    def kept_units(self, within: sql.Composable) -> sql.Composed:
        """The query for the kept units `k` of lines within a condition: row, `fields` (a mask), keys of each object."""
        keys = [
            sql.SQL(", array_agg(key) FILTER (WHERE bit = {}) AS {}").format(
                sql.Literal(self.resource.change_bits[field.name]), sql.Identifier(field.name)
            )
            for field in stored_fields(self.resource)
            if field.merges_by_key
        ]
        return self.compose(_KEPT_UNITS, keys=sql.Composed(keys), within=within)

    def units(self, alias: str) -> sql.Composed:
        """The query for the units (bit, key) of a change: of the row of this alias, which has the log's columns."""
        bits = self.resource.change_bits
        fields = stored_fields(self.resource)
        whole = [bits[field.name] for field in fields if not field.merges_by_key]
        return UNION_ALL.join(
            [
                sql.SQL(_UNITS_OF_FIELDS).format(bits=sql.Literal(whole), alias=sql.Identifier(alias)),
                *(
                    sql.SQL(_UNITS_OF_KEYS).format(
                        bit=sql.Literal(bits[field.name]),
                        alias=sql.Identifier(alias),
                        column=sql.Identifier(field.name),
                    )
                    for field in fields
                    if field.merges_by_key
                ),
            ]
        )
