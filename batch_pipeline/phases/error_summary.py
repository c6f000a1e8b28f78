"""The summary of a batch's errors: by field and code, with counts, the first rows and a suggestion, without values.

It is made while the errors files are written, from the same chunks.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.payloads.artifacts import RejectedChunk
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.records.hints import WRONG_VALUES, expected, field_at, hint
from batch_pipeline.records.resource import Resource

MOST_GROUPS = 50
FIRST_ROWS = 5
# Bounds of memory: names of fields can be the sender's, and so can values.
HELD_GROUPS = 10_000
JUDGED_VALUES = 1_000  # different ones in a group
SHOWN_HINTS = 3
SUGGESTION_CHARACTERS = 300

_Key = tuple[str | None, str]  # field and code


@dataclass
class _Group:
    """`judged` has the values looked at, with their hints; `looked_at` counts the errors with these values."""

    count: int = 0
    rows: list[int] = field(default_factory=list)
    judged: dict[str, str | None] = field(default_factory=dict)
    looked_at: int = 0
    hints: Counter[str] = field(default_factory=Counter)


class ErrorSummary:
    """Collects the errors of a batch's rejected items.

    The summary is exact while there are at most `HELD_GROUPS` pairs of field and code; the errors of further pairs are
    only counted.
    """

    def __init__(self, resource: Resource, context: RuleContext) -> None:
        self._resource = resource
        self._context = context
        self._groups: dict[_Key, _Group] = {}
        self._others = 0

    def add(self, chunk: RejectedChunk) -> None:
        """Adds the errors of a chunk. Chunks come in upload order."""
        errors = chunk.errors.combine_chunks()
        names, codes = (errors[each].combine_chunks().dictionary_encode() for each in ("field", "code"))
        places = pc.fill_null(names.indices, len(names.dictionary)).to_numpy()
        keys = places.astype(np.int64) * len(codes.dictionary) + codes.indices.to_numpy()
        order = np.argsort(keys, kind="stable")  # within a key in the order of rows
        starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
        known_names, known_codes = [*names.dictionary.to_pylist(), None], codes.dictionary.to_pylist()
        rows = errors["row"].to_numpy()
        for errors_of_group in np.split(order, starts[1:]) if len(order) else ():
            place, code = divmod(int(keys[errors_of_group[0]]), len(known_codes))
            key = known_names[place], known_codes[code]
            group = self._group(key)
            if group is None:
                self._others += len(errors_of_group)
                continue
            group.count += len(errors_of_group)
            if len(group.rows) < FIRST_ROWS:
                group.rows += [int(row) for row in np.unique(rows[errors_of_group])[: FIRST_ROWS - len(group.rows)]]
            self._judge(key, group, errors["value"].take(pa.array(errors_of_group)))

    def to_json(self) -> dict[str, Any]:
        """`{errors, groups: [{field, code, count, rows, suggestion}], others}`, the largest of the groups first.

        `errors` and `others` (those in no listed group) count errors; an item can have several.
        """
        ordered = sorted(self._groups.items(), key=lambda item: (-item[1].count, item[1].rows, item[0][1]))
        total = self._others + sum(group.count for group in self._groups.values())
        listed = ordered[:MOST_GROUPS]
        return {
            "errors": total,
            "groups": [
                {
                    "field": name,
                    "code": code,
                    "count": group.count,
                    "rows": group.rows,
                    "suggestion": self._suggestion(name, code, group),
                }
                for (name, code), group in listed
            ],
            "others": total - sum(group.count for _, group in listed),
        }

    def _group(self, key: _Key) -> _Group | None:
        group = self._groups.get(key)
        if group is None and len(self._groups) < HELD_GROUPS:
            group = self._groups[key] = _Group()
        return group

    def _judge(self, key: _Key, group: _Group, values: pa.ChunkedArray) -> None:
        """Finds hints for wrong values. Looks at the first `JUDGED_VALUES` different ones of the group."""
        kind = field_at(self._resource, key[0])
        if kind is None or key[1] not in WRONG_VALUES:
            return
        counted = values.drop_null().combine_chunks().value_counts()
        room = JUDGED_VALUES - len(group.judged)
        if room > 0 and len(counted):
            fresh = pc.invert(pc.is_in(counted.field("values"), value_set=pa.array(group.judged, pa.string())))
            for value in counted.field("values").filter(fresh)[:room].to_pylist():
                group.judged[value] = hint(kind, key[1], value, self._context)
        judged = counted.filter(pc.is_in(counted.field("values"), value_set=pa.array(group.judged, pa.string())))
        for value, count in zip(judged.field("values").to_pylist(), judged.field("counts").to_pylist(), strict=True):
            group.looked_at += count
            found = group.judged[value]
            if found is not None:
                group.hints[found] += count

    def _suggestion(self, name: str | None, code: str, group: _Group) -> str | None:
        hinted = group.hints.most_common(SHOWN_HINTS)
        of = group.looked_at
        parts = [text if count == of else f"{text} ({count:,} of {of:,})" for text, count in hinted]
        if group.hints.total() < of or of == 0:
            otherwise = expected(self._resource, name, code, self._context)
            if otherwise is not None:
                parts.append(f"else {otherwise}" if parts else otherwise)
        text = "; ".join(parts)
        if len(text) > SUGGESTION_CHARACTERS:
            text = f"{text[: SUGGESTION_CHARACTERS - 1]}…"
        return text or None
