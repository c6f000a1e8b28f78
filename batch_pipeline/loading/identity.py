"""Finds the record of each staged item: by the first key that the item carries, and by no other.

A set-based look-up in the database, which also compares the item with its record. The `planner` decides what follows.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from psycopg import sql

from batch_pipeline.loading.merging import unchanged
from batch_pipeline.loading.staging import Staging
from batch_pipeline.loading.statements import AND, NOTHING, UNION_ALL, Composer, indented
from batch_pipeline.records.check import CheckedChunk, RowRules
from batch_pipeline.records.resource import NaturalKey, Resource

# Kinds of deciding keys, in their order. The natural keys follow by their place in the resource.
UNDECIDED = -1  # no key can decide; null in the staged items
BY_ID = 0
BY_EXTERNAL_ID = 1
BY_NATURAL_KEY = 2

# Lower-cases all scripts, the same on every server. The index on a folded key has the same expression.
FOLDING_COLLATION = "pg_c_utf8"

_UNDECIDED = """\
SELECT s.row, 'r'::"char" AS verdict, NULL::text COLLATE "C" AS record_id, s.kind, 0::smallint AS matches,
       NULL::bigint AS target
FROM {items} s
WHERE s.kind IS NULL{is_open}"""

_BY_KEY = """\
SELECT s.row,
       CASE WHEN s.invalid <> 0 THEN 'r'{or_unchanged}
            ELSE 'a' END::"char" AS verdict,
       r.id AS record_id, s.kind, (CASE WHEN r.id IS NULL THEN 0 ELSE 1 END)::smallint AS matches,
       CASE WHEN r.id IS NULL THEN hashtextextended({key}, 0) ELSE hashtextextended(r.id, 1) END AS target
FROM {items} s
LEFT JOIN {records} r ON r.organization_id = %(organization)s
    AND {conditions}
WHERE s.kind = {kind}{is_open}{is_written}"""

# An item that changes nothing has a verdict of its own, or in a sparse plan no row.
_OR_UNCHANGED = """
            WHEN {is_unchanged}
            THEN 'u'"""
_IS_WRITTEN = """
  AND (s.invalid <> 0 OR NOT (
    {is_unchanged}
  ))"""

# PostgreSQL tests it for each item, even if the multirange is empty.
_IS_OPEN = """
  AND NOT s.row <@ %(done)s::int8multirange"""


@dataclass(frozen=True)
class DecidingKeys:
    """The keys that identify the items of a chunk.

    Attributes:
        kinds: int16, the kind of the deciding key; null if that key is not valid, so nothing identifies the item.
        identified: bool, the item carries some readable key, deciding or not.
    """

    kinds: pa.Int16Array
    identified: pa.BooleanArray


def deciding_keys(resource: Resource, checked: CheckedChunk, rules: RowRules) -> DecidingKeys:
    """The keys of a chunk's items.

    A key with a wrong value decides as well: an item with a mistyped email must not be matched by name instead.
    """
    count = len(checked.rows)

    def given(name: str) -> npt.NDArray[np.bool_]:
        column = checked.fields.get(name)
        if column is None:
            return np.zeros(count, np.bool_)
        return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))

    def wrong(name: str) -> npt.NDArray[np.bool_]:
        return np.asarray((checked.invalid >> rules.bits[name]) & 1 == 1)

    kinds = np.full(count, UNDECIDED, np.int16)
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
    return DecidingKeys(pa.array(kinds, mask=kinds == UNDECIDED), pa.array(identified))


class Matching:
    """The query for the records that staged items mean.

    Parameters: `organization`; if `has_done`, also `done`, the multirange of upload rows to leave out. Columns:

    - row: bigint, the place of the item in the upload
    - verdict: "char"; r: a rule rejected the item, or no key can decide; u: it would not change its record; else a
    - record_id: text, the id of its record; null if there is none
    - kind: smallint, of its deciding key; null if no key can decide
    - matches: smallint, 1 if it has a record, else 0
    - target: bigint, a hash; the same for all items that mean the same record, existing or new

    An item has a row for each record that has its natural key. If `is_sparse`, an unchanged item has none.

    `kinds` are those that the staged items have, with `UNDECIDED`; None: not known, so all are looked for.
    """

    def __init__(
        self,
        resource: Resource,
        staging: Staging,
        fields: tuple[str, ...],
        *,
        clears: bool,
        kinds: Collection[int] | None = None,
        has_done: bool = False,
    ) -> None:
        self._resource = resource
        self._composer = Composer(resource, staging)
        self._fields = fields
        self._is_unchanged = unchanged(resource, fields, clears=clears)
        self.has_done = has_done
        self._is_open = sql.SQL(_IS_OPEN) if has_done else NOTHING
        self._possible = set(kinds or (UNDECIDED, *range(BY_NATURAL_KEY + len(resource.natural_keys))))

    def query(self, *, is_sparse: bool = False) -> sql.Composed:
        """The query for all items. `is_sparse` is for items of one unique key that no two of them share."""
        branches = [self._composer.compose(_UNDECIDED, is_open=self._is_open)] if UNDECIDED in self._possible else []
        branches += [
            self._by_key(kind, sql.SQL("r.{c} = s.{c}").format(c=sql.Identifier(column)), is_sparse=is_sparse)
            for kind, column in self._columns()
        ]
        branches += [self.by_natural_key(place) for place in self._natural_places()]
        return UNION_ALL.join(branches)

    def unique_key(self) -> tuple[int, str] | None:
        """The kind of all deciding keys, and its column, if the database lets no two records share such a key."""
        columns = self._columns()
        return columns[0] if len(columns) == 1 and not self._natural_places() else None

    def by_natural_key(self, place: int) -> sql.Composed:
        """The part of the query for the items that one natural key of the resource decides."""
        return self._by_key(BY_NATURAL_KEY + place, self.natural_condition(self._resource.natural_keys[place]))

    def _by_key(self, kind: int, conditions: sql.Composed, *, is_sparse: bool = False) -> sql.Composed:
        or_unchanged, is_written = sql.SQL(_OR_UNCHANGED), sql.SQL(_IS_WRITTEN)
        return self._composer.compose(
            _BY_KEY,
            or_unchanged=NOTHING if is_sparse else or_unchanged.format(is_unchanged=indented(self._is_unchanged, 12)),
            is_written=is_written.format(is_unchanged=indented(self._is_unchanged)) if is_sparse else NOTHING,
            key=self._key_text(kind),
            conditions=conditions,
            kind=sql.Literal(kind),
            is_open=self._is_open,
        )

    def key_text(self) -> sql.Composed:
        """The text of item `s`'s deciding key: equal for all items that mean the same new record."""
        kinds = [kind for kind, _ in self._columns()]
        kinds += [BY_NATURAL_KEY + place for place in self._natural_places()]
        return sql.SQL("CASE s.kind {} END").format(
            sql.SQL(" ").join(
                sql.SQL("WHEN {} THEN {}").format(sql.Literal(kind), self._key_text(kind)) for kind in kinds
            )
        )

    def _columns(self) -> list[tuple[int, str]]:
        """The kinds of keys that are one column, and the column, as far as items can have them."""
        columns = ((BY_ID, "id"), (BY_EXTERNAL_ID, "external_id"))
        return [(kind, name) for kind, name in columns if kind in self._possible and name in self._fields]

    def _natural_places(self) -> list[int]:
        return [
            place
            for place, key in enumerate(self._resource.natural_keys)
            if BY_NATURAL_KEY + place in self._possible and (key.when is None or key.when in self._fields)
        ]

    def _key_text(self, kind: int) -> sql.Composed:
        label = sql.Literal(f"k{kind}")
        if kind < BY_NATURAL_KEY:
            column = sql.Identifier("id" if kind == BY_ID else "external_id")
            return sql.SQL('({} || s.{}) COLLATE "C"').format(label, column)
        key = self._resource.natural_keys[kind - BY_NATURAL_KEY]
        values = sql.SQL(", ").join(self._staged_key(key, column) for column in key.columns)
        return sql.SQL("""concat_ws(E'\\x1f', {}, {}) COLLATE "C\"""").format(label, values)

    def staged(self, column: str) -> sql.Composed:
        """The field of staged item `s`; null if no item of the upload can have it."""
        if column in self._fields:
            return sql.SQL("s.{}").format(sql.Identifier(column))
        return sql.SQL("NULL::{}").format(sql.SQL(self._resource.field(column).sql_type))

    def same_key_conditions(self) -> list[sql.Composed]:
        """Conditions, one for each key: item `s` and record `r` have the same value of it, even if it does not decide.

        For example, a contact without email is found by name and phone also if the item has an email.
        """
        conditions = [
            sql.SQL("r.{column} = s.{column}").format(column=sql.Identifier(column))
            for column in ("id", "external_id")
            if column in self._fields
        ]
        return conditions + [
            AND.join([self.natural_condition(key), self._readable(key)])
            for key in self._resource.natural_keys
            if key.columns[0] in self._fields
        ]

    def _readable(self, key: NaturalKey) -> sql.Composed:
        """Condition: no column of the key broke rules. A wrong value is staged as null."""
        mask = sum(1 << self._composer.bits[column] for column in key.columns)
        return sql.SQL("s.invalid & {} = 0").format(sql.Literal(mask))

    def natural_condition(self, key: NaturalKey) -> sql.Composed:
        """Condition: item `s` and record `r` have the same value of the key."""
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
        return AND.join(conditions)

    def _staged_key(self, key: NaturalKey, column: str) -> sql.Composed:
        return self._key_expression(key, column, self.staged(column))

    def _key_expression(self, key: NaturalKey, column: str, value: sql.Composed) -> sql.Composed:
        return _key_expression(value, key, self._resource.field(column).default)


def _key_expression(value: sql.Composed, key: NaturalKey, default: str | None) -> sql.Composed:
    """A key column as it is compared: null as the field's default. The index on the table has the same expression."""
    if key.fold_case:
        return sql.SQL("lower({} COLLATE {})").format(value, sql.Identifier(FOLDING_COLLATION))
    return sql.SQL('(coalesce({}, {}) COLLATE "C")').format(value, sql.Literal(default or ""))
