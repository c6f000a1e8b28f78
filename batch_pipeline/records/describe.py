"""The page of a resource in `docs/`, as Markdown made from its description, so that it says what is checked.

``python -m batch_pipeline.records.describe docs`` writes the pages of all resources. Wording only: a rule belongs in
`fields` or `rules`, from where it comes here with its code and sentence.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import singledispatch
from pathlib import Path

from batch_pipeline.batches.model import Action
from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.fields import Boolean, Email, Field, KeyedText, Phone, RecordId, RuleContext, Text
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.resource import NaturalKey, Resource
from batch_pipeline.records.rules import Rule

_KIND_WORDS = {
    CellKind.TEXT: "text",
    CellKind.NUMBER: "number",
    CellKind.BOOLEAN: "boolean",
    CellKind.ARRAY: "array",
    CellKind.OBJECT: "object",
}
# Some sentences name the region that numbers are read by; a page is about any.
_ANY_REGION = RuleContext(region="its region")


def page_name(resource: Resource) -> str:
    """The page's file name: the resource's table, `.md`."""
    return f"{resource.table}.md"


def describe(resource: Resource) -> str:
    """The resource's page. Raises TypeError for a kind of field that `value_text` does not describe."""
    return "\n".join(_lines(resource)) + "\n"


@singledispatch
def value_text(field: Field) -> str:
    """What a value of the field is and how it is stored; a kind of field more is one more registered function."""
    raise TypeError(f"no description of the kind {type(field).__name__}: register one with value_text")


@value_text.register
def _(field: Text) -> str:
    return f"text, at most {field.max_length:,} characters"


@value_text.register
def _(field: RecordId) -> str:
    return f"the record's own id, made by this system: `{field.prefix}` and 22 letters and digits"


@value_text.register
def _(field: Email) -> str:
    return "email address (RFC 5321/5322, without looking it up); stored with its domain in lower case"


@value_text.register
def _(field: Phone) -> str:
    return "phone number, international or as dialled within the batch's region; stored as E.164"


@value_text.register
def _(field: Boolean) -> str:
    return "true/false, yes/no or 1/0"


@value_text.register
def _(field: KeyedText) -> str:
    return (
        f"at most {field.max_pairs} pairs of names (to {field.max_key_length} characters) and texts "
        f"(to {field.max_value_length}), merged key by key; null removes a key. "
        f"Flat files: one column per key, `{field.name}.colour`"
    )


def _lines(resource: Resource) -> Iterator[str]:
    yield from (
        "<!-- Made by `python -m batch_pipeline.records.describe docs`: change the resource, not this page. -->",
        "",
        f"# {resource.table.capitalize()}",
        "",
        f"Resource `{resource.name}`, table `{resource.table}`. "
        f"Actions: {', '.join(f'`{action.value}`' for action in Action if action in resource.actions)}.",
        "",
        "## Fields",
        "",
    )
    yield from _table(
        ("field", "required to create", "value", "in JSON", "column type"),
        (
            (
                f"`{field.name}`",
                "yes" if field.required else "",
                value_text(field),
                " or ".join(word for kind, word in _KIND_WORDS.items() if kind in field.kinds),
                field.sql_type,
            )
            for field in resource.fields
        ),
    )
    yield from (
        "",
        "Text is trimmed and brought to Unicode NFC, and CRLF and CR within it become LF. Empty text is a missing "
        "value.",
    )
    yield from (
        "",
        f"Columns of `{resource.table}` beside these: `organization_id` (part of the primary key), `created_at`, "
        "`updated_at`, and `batch_id`, the batch that last wrote the record.",
    )
    if resource.file_headers:
        names = [f"`{header}` (for `{name}`)" for header, name in resource.file_headers.items()]
        yield from ("", f"An upload may also have: {', '.join(names)}.")
    yield from ("", "## Which record an item means", "", "By the first of these that the item carries:", "")
    ways = ["`id`", "`external_id`", *(_key_text(key) for key in resource.natural_keys)]
    yield from (f"{number}. {way}" for number, way in enumerate(ways, start=1))
    yield from ("", "## What a value is rejected for", "")
    yield from _table(("code", "because it", "fields"), _rule_rows(resource.fields))


def _key_text(key: NaturalKey) -> str:
    parts = [" and ".join(f"`{column}`" for column in key.columns)]
    if len(key.columns) > 1:
        parts.append("both compared in full, a missing one being equal to a missing one")
    if key.fold_case:
        parts.append("upper and lower case being the same")
    if key.only_records_without is not None:
        parts.append(f"among the records without `{key.only_records_without}`")
    return ", ".join(parts)


def _rule_rows(fields: Iterable[Field]) -> Iterator[tuple[str, str, str]]:
    """One row per rule, with all the fields that have it."""
    having: dict[tuple[str, str], list[str]] = {}
    for field in fields:
        for name, code, because in _rules_of(field):
            having.setdefault((code, because), []).append(name)
    for (code, because), names in having.items():
        yield f"`{code}`", because, ", ".join(names)


def _rules_of(field: Field) -> Iterator[tuple[str, str, str]]:
    """(where, code, what is said) of each rule of a field."""
    name = f"`{field.name}`"
    if field.required:
        yield name, "required", "is missing from a new record, or would be cleared"
    refusal = field.refusal(_ANY_REGION)
    if refusal is None or refusal.code != "invalid_type":  # else it is said there, once for every format
        yield name, "invalid_type", f"{field.type_expectation} (in JSON)"
    yield from _each(name, (*(() if refusal is None else (refusal,)), *field.rules()))
    if isinstance(field, KeyedText):
        yield name, "too_many", f"would have more than {field.max_pairs} pairs when stored"
        yield from _each(f"names in {name}", field.key_rules())
        yield from _each(f"values in {name}", field.value_rules())


def _each(name: str, rules: Iterable[Rule]) -> Iterator[tuple[str, str, str]]:
    for rule in rules:
        yield name, rule.code, rule.expectation


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def main(arguments: Sequence[str]) -> int:
    """Writes every resource's page into the folder given. Returns the exit code."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m batch_pipeline.records.describe FOLDER (an existing one)\n")
        return 2
    for resource in RESOURCES.values():
        (Path(arguments[0]) / page_name(resource)).write_text(describe(resource), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
