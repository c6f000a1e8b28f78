"""Which record each staged item means: by the first key that it carries, and by that one alone.

A set-based look-up in the database; what follows from it is the `planner`'s.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from batch_pipeline.loading.staging import Staging
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.resource import NaturalKey, Resource

# Kinds of deciding keys, in the order in which they decide; natural keys follow by their place in the resource.
BY_ID = 0
BY_EXTERNAL_ID = 1
BY_NATURAL_KEY = 2

# Lower-cases every script alike on every server; the index on a folded key uses the same expression.
FOLDING_COLLATION = "pg_c_utf8"


@dataclass(frozen=True)
class DecidingKeys:
    """By which key each item of a chunk is identified.

    Attributes:
        kinds: int16; the kind of key that decides; null where that key is not valid, so none can.
        identified: bool; whether the item carries any readable key, deciding or not.
    """

    kinds: pa.Int16Array
    identified: pa.BooleanArray


def deciding_keys(resource: Resource, checked: CheckedChunk, rules: RowRules) -> DecidingKeys:
    """The keys of a chunk's items.

    An item carries a key also when its value is wrong: a mistyped email must not turn into another record by name.
    """
    count = len(checked.rows)

    def given(name: str) -> npt.NDArray[np.bool_]:
        column = checked.fields.get(name)
        if column is None:
            return np.zeros(count, np.bool_)
        return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))

    def wrong(name: str) -> npt.NDArray[np.bool_]:
        return np.asarray((checked.invalid >> rules.bits[name]) & 1 == 1)

    kinds = np.full(count, -1, np.int16)
    identified = given("id") | given("external_id")
    natural_items = np.ones(count, np.bool_)
    open_items = np.ones(count, np.bool_)
    keys: list[tuple[int, str | None, tuple[str, ...]]] = [
        (BY_ID, "id", ("id",)),
        (BY_EXTERNAL_ID, "external_id", ("external_id",)),
    ]
    keys += [(BY_NATURAL_KEY + i, key.when, key.columns) for i, key in enumerate(resource.natural_keys)]
    for kind, when, columns in keys:
        carried = open_items if when is None else open_items & (given(when) | wrong(when))
        broken = np.zeros(count, np.bool_)
        for column in columns:
            broken |= wrong(column)
        kinds[carried & ~broken] = kind
        open_items = open_items & ~carried
        if kind >= BY_NATURAL_KEY:
            applies = natural_items if when is None else natural_items & (given(when) | wrong(when))
            identified |= applies & ~broken & given(columns[0])
            natural_items = natural_items & ~applies
    return DecidingKeys(pa.array(kinds, mask=kinds < 0), pa.array(identified))


class Matching:
    """The query that finds the records that staged items mean.

    Its parameters: `organization`, and `done`, the multirange of upload rows to leave out. Its columns:

    - row: the item's place in the upload
    - record_id: the record that it means; null: none
    - matches: how many records have its key
    - kind: of its deciding key; null where none can decide
    - target: what it means, the record or the new record of that key: items that mean the same have the same target
    - invalid: as staged
    """

    def __init__(self, resource: Resource, staging: Staging, fields: tuple[str, ...]) -> None:
        self._resource = resource
        self._staging = staging
        self._fields = fields

    def query(self) -> sql.Composed:
        """All items, each once."""
        branches = [self._undecided()]
        if "id" in self._fields:
            branches.append(self._by_column(BY_ID, "id"))
        if "external_id" in self._fields:
            branches.append(self._by_column(BY_EXTERNAL_ID, "external_id"))
        branches += [
            self._by_natural_key(BY_NATURAL_KEY + place, key)
            for place, key in enumerate(self._resource.natural_keys)
            if key.when is None or key.when in self._fields
        ]
        return sql.SQL(" UNION ALL ").join(branches)

    def staged(self, column: str) -> sql.Composed:
        """A field of the staged item `s`; null where no item of the upload can carry it."""
        if column in self._fields:
            return sql.SQL("s.{}").format(sql.Identifier(column))
        return sql.SQL("NULL::{}").format(sql.SQL(self._resource.field(column).sql_type))

    def _compose(self, statement: str, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(statement).format(
            items=self._staging.items, records=sql.Identifier("public", self._resource.table), **parts
        )

    def _undecided(self) -> sql.Composed:
        return self._compose(
            """
            SELECT s.row, NULL::text COLLATE "C" AS record_id, 0 AS matches, s.kind, NULL::text COLLATE "C" AS target,
                   s.invalid
            FROM {items} s WHERE s.kind IS NULL AND NOT s.row <@ %(done)s::int8multirange
            """
        )

    def _by_column(self, kind: int, column: str) -> sql.Composed:
        """By a column that is unique within the organization."""
        return self._compose(
            """
            SELECT s.row, r.id, CASE WHEN r.id IS NULL THEN 0 ELSE 1 END, s.kind,
                   coalesce('r' || r.id, {label} || s.{column}) COLLATE "C", s.invalid
            FROM {items} s LEFT JOIN {records} r ON r.organization_id = %(organization)s AND r.{column} = s.{column}
            WHERE s.kind = {kind} AND NOT s.row <@ %(done)s::int8multirange
            """,
            column=sql.Identifier(column),
            label=sql.Literal(f"k{kind}"),
            kind=sql.Literal(kind),
        )

    def same_key_conditions(self) -> list[sql.Composed]:
        """For each key that records have: whether item `s` carries that of record `r`, deciding or not.

        A contact without email, say, is found by name and phone also where the item has an email, perhaps a new one.
        """
        conditions = [
            sql.SQL("r.{column} = s.{column}").format(column=sql.Identifier(column))
            for column in ("id", "external_id")
            if column in self._fields
        ]
        return conditions + [
            sql.SQL("{} AND {}").format(self._natural_condition(key), self._readable(key))
            for key in self._resource.natural_keys
            if key.columns[0] in self._fields
        ]

    def _readable(self, key: NaturalKey) -> sql.Composed:
        """Whether no column of the key broke rules: what is staged as null may be given, but not readable."""
        names = [field.name for field in self._resource.fields]
        mask = sum(1 << names.index(column) for column in key.columns)
        return sql.SQL("s.invalid & {} = 0").format(sql.Literal(mask))

    def _natural_condition(self, key: NaturalKey) -> sql.Composed:
        records = [sql.SQL("r.{}").format(sql.Identifier(column)) for column in key.columns]
        conditions = [
            sql.SQL("{} = {}").format(self._key_expression(key, column, value), self._staged_key(key, column))
            for column, value in zip(key.columns, records, strict=True)
        ]
        if key.fold_case:  # its index is on records that have the column
            conditions += [sql.SQL("r.{} IS NOT NULL").format(sql.Identifier(column)) for column in key.columns]
        if key.only_records_without is not None:
            conditions.append(sql.SQL("r.{} IS NULL").format(sql.Identifier(key.only_records_without)))
        conditions.append(sql.SQL("{} IS NOT NULL").format(self.staged(key.columns[0])))
        return sql.SQL(" AND ").join(conditions)

    def _staged_key(self, key: NaturalKey, column: str) -> sql.Composed:
        return self._key_expression(key, column, self.staged(column))

    def _key_expression(self, key: NaturalKey, column: str, value: sql.Composed) -> sql.Composed:
        return _key_expression(value, key, self._resource.field(column).default)

    def _by_natural_key(self, kind: int, key: NaturalKey) -> sql.Composed:
        values = sql.SQL(", ").join(self._staged_key(key, column) for column in key.columns)
        return self._compose(
            """
            SELECT s.row, min(r.id), count(r.id)::integer, s.kind,
                   coalesce('r' || min(r.id) COLLATE "C", concat_ws(E'\\x1f', {label}, {values}) COLLATE "C"), s.invalid
            FROM {items} s LEFT JOIN {records} r ON r.organization_id = %(organization)s AND {conditions}
            WHERE s.kind = {kind} AND NOT s.row <@ %(done)s::int8multirange
            GROUP BY s.row, s.kind, s.invalid, {values}
            """,
            conditions=self._natural_condition(key),
            label=sql.Literal(f"k{kind}"),
            values=values,
            kind=sql.Literal(kind),
        )


def _key_expression(value: sql.Composed, key: NaturalKey, default: str | None) -> sql.Composed:
    """A key column as compared, null as the field's default; the index on the records table has the same expression."""
    if key.fold_case:
        return sql.SQL("lower({} COLLATE {})").format(value, sql.Identifier(FOLDING_COLLATION))
    return sql.SQL('(coalesce({}, {}) COLLATE "C")').format(value, sql.Literal(default or ""))
