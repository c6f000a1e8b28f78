"""The columns of an upload against its resource: which are unknown, mapped or ignored, and how a header is refused."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.batches.facts import REMEMBERED
from batch_pipeline.batches.mappings import RememberedMapping, find_mapping
from batch_pipeline.batches.model import Action, UnknownColumns
from batch_pipeline.errors import RefusedError, UnknownColumnsError
from batch_pipeline.payloads.model import Payload, RawChunk
from batch_pipeline.phases.attempt import Attempt
from batch_pipeline.phases.header_texts import flags, named, refusal
from batch_pipeline.records.cells import known_columns
from batch_pipeline.records.header_names import looks_like_value, suggest_mapping
from batch_pipeline.records.resource import Resource


@dataclass
class Columns:
    """How the columns of an upload are used.

    Attributes:
        mapping: record field -> header.
        remembered: `mapping`, if it is a remembered one that the batch asked for; else None.
        ignores_unknown: unknown columns are dropped.
        warnings: `{code, message}`, without customers' values.
    """

    resource: Resource
    mapping: Mapping[str, str]
    remembered: dict[str, str] | None = None
    ignores_unknown: bool = False
    warnings: list[dict[str, str]] = field(default_factory=list)
    _ignored: Counter[str] = field(default_factory=Counter)

    def note_ignored(self, names: Iterable[str]) -> None:
        """Notes ignored columns before any item is read."""
        self._ignored.update(dict.fromkeys(names, 0))

    def use(self, chunk: RawChunk) -> RawChunk:
        """The chunk without ignored columns. Counts the items with a value in each of them."""
        if not self.ignores_unknown:
            return chunk
        used = known_columns(chunk, self.resource.knows, {header: name for name, header in self.mapping.items()})
        for name in chunk.columns.keys() - used.columns.keys():
            self._ignored[name] += _given(chunk.columns[name])
        return used

    def all_warnings(self, order: Sequence[str]) -> tuple[dict[str, str], ...]:
        """The warnings after all chunks were used; ignored columns are named in this order."""
        ignored = [name for name in order if name in self._ignored]
        if not ignored:
            return tuple(self.warnings)
        texts = named(ignored, order, counts=self._ignored)
        message = f"{self.resource.name} does not have these columns, so they were ignored: {texts}."
        taken = {self.field_of(name) for name in order}
        if suggested := suggest_mapping(self.resource, ignored, taken=taken):
            message += f" If they mean fields, map them: {flags(suggested)}."
        return (*self.warnings, {"code": "unknown_columns_ignored", "message": message})

    def field_of(self, header: str) -> str:
        """The field that a header names or is mapped to."""
        return next((name for name, mapped in self.mapping.items() if mapped == header), header)


def check_columns(attempt: Attempt, payload: Payload) -> Columns:
    """How the upload's columns are used. Fields of JSON items are each item's own, so they are not checked here.

    Raises RefusedError if the column mapping, the properties or the header don't match the resource, or each other.
    """
    resource, options = attempt.resource, attempt.options
    given = {} if options.column_mapping == REMEMBERED else dict(options.column_mapping)
    for option, fields in (("column_mapping", given), ("properties", options.properties)):
        for name in fields:
            if not resource.knows(name) or (option == "properties" and not resource.takes_default(name)):
                raise RefusedError(
                    "invalid_options",
                    f"{option} can't take {name!r} of {resource.name}. Fields are: {resource.header_help()}.",
                )
    if payload.is_errors_file and attempt.action is Action.overwrite:
        raise RefusedError(
            "errors_file_in_overwrite",
            "The file is an errors file (it has a _row column), so it does not have all records: "
            "upload it for merge, or remove its columns that begin with _.",
        )
    columns = Columns(resource, given, ignores_unknown=options.unknown_columns is UnknownColumns.ignore)
    if options.column_mapping == REMEMBERED:
        columns = _with_remembered(columns, _remembered(attempt, payload) if payload.is_flat else None)
    if payload.is_flat:
        _check_header(attempt, payload, columns)
    return columns


def _remembered(attempt: Attempt, payload: Payload) -> RememberedMapping | None:
    """The mapping that is remembered for the header, if the resource still has its fields."""
    found = find_mapping(attempt.system.engine, attempt.batch.address, payload.columns)
    return found if found is not None and all(map(attempt.resource.knows, found.mapping)) else None


def _with_remembered(columns: Columns, found: RememberedMapping | None) -> Columns:
    if found is None:
        message = (
            "No mapping is remembered for this header: a batch of the same organization, resource and header must "
            "have completed with a column_mapping. JSON items have no header."
        )
        return replace(columns, remembered={}, warnings=[{"code": "no_remembered_mapping", "message": message}])
    message = f"The column_mapping with which {found.batch_id} completed was applied."
    applied = {"code": "remembered_mapping", "message": message}
    return replace(columns, mapping=found.mapping, remembered=found.mapping, warnings=[applied])


def _check_header(attempt: Attempt, payload: Payload, columns: Columns) -> None:
    resource, mapping, header = attempt.resource, columns.mapping, payload.columns
    names = [columns.field_of(each) for each in header]
    unknown = [each for each, name in zip(header, names, strict=True) if not resource.knows(name)]
    suggested = suggest_mapping(resource, unknown, taken=set(names) - set(unknown))
    # Else the first row may be data: its cells are customers' values, which no message quotes.
    has_names = len(unknown) < len(header) or (bool(suggested) and not any(map(looks_like_value, unknown)))
    mapped_id = mapping.get("id", "id")
    if has_names and attempt.action is Action.delete and mapped_id not in header:
        raise RefusedError(
            "missing_columns",
            f"A delete needs the column {mapped_id}; the file has: {named(header, header)}."
            + (f" Map it: {flags({'id': suggested['id']})}." if "id" in suggested else ""),
        )
    absent = [each for each in mapping.values() if each not in header]
    if absent:
        raise RefusedError(
            "missing_columns",
            f"column_mapping names headers that the file does not have: {named(absent, header)}. "
            f"It has: {named(header, header)}.",
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise RefusedError(
            "duplicate_headers",
            f"The file gives {', '.join(repeated)} in more than one column: rename or unmap one of them.",
        )
    if columns.ignores_unknown and has_names:
        columns.note_ignored(unknown)
    elif unknown:
        error = refusal(
            resource,
            header,
            unknown,
            has_names=has_names,
            suggested=suggested,
            remembered=_remembered(attempt, payload),
            mapping=mapping,
        )
        if columns.remembered == {}:
            error = UnknownColumnsError(
                f"No mapping is remembered for this header. {error.message}", error.suggested_mapping
            )
        raise error


def _given(column: pa.StringArray) -> int:
    """The items that have a value in the column; null and blank texts are none."""
    return int(pc.sum(pc.not_equal(pc.utf8_trim_whitespace(column), "")).as_py() or 0)
