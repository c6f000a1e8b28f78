"""The pages in `docs/` about the rules: one for each resource, and one for the carriers of tracking numbers.

`GENERATOR` is the command that writes them. Only wording belongs here. A rule belongs in `fields` or `rules`; its code
and sentence come from there.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from batch_pipeline.batches.model import UploadAction
from batch_pipeline.payloads.model import CellKind
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.fields import Field, RuleContext
from batch_pipeline.records.keyed import KeyedText
from batch_pipeline.records.lists import ListField, ScalarList
from batch_pipeline.records.nested import TWICE, Nested
from batch_pipeline.records.object_lists import ObjectList
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.reference_lists import SET_WITH_OTHERS
from batch_pipeline.records.references import (
    ADDED_AND_REMOVED,
    MarkedMembers,
    Members,
    References,
)
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.resource import NaturalKey, Resource
from batch_pipeline.records.rules import Complaint, Rule
from batch_pipeline.records.value_texts import value_text
from batch_pipeline.values.carriers import Format, carriers

GENERATOR = "python -m batch_pipeline.records.describe docs"

_KIND_WORDS = {
    CellKind.TEXT: "text",
    CellKind.NUMBER: "number",
    CellKind.BOOLEAN: "boolean",
    CellKind.ARRAY: "array",
    CellKind.OBJECT: "object",
}
CARRIERS_PAGE = "tracking-numbers.md"
# Some sentences name the region that numbers are read by; a page is about any.
_ANY_REGION = RuleContext(region="its region")


def page_name(resource: Resource) -> str:
    """The page's file name: the resource's table, `.md`."""
    return f"{resource.table}.md"


def pages() -> dict[str, str]:
    """The text of each generated page, by its name."""
    texts = {page_name(resource): describe(resource) for resource in all_resources()}
    return texts | {CARRIERS_PAGE: describe_carriers()}


def describe(resource: Resource) -> str:
    """The resource's page. Raises TypeError for a kind of field that `value_text` does not describe."""
    return "\n".join(_lines(resource)) + "\n"


def describe_carriers() -> str:
    """The page with the rules for each carrier's tracking numbers."""
    return "\n".join(_carrier_lines()) + "\n"


def _carrier_lines() -> Iterator[str]:
    yield from (
        f"<!-- Made by `{GENERATOR}`: change carriers.toml, not this page. -->",
        "",
        "# Tracking numbers",
        "",
        "A tracking number has 4 to 50 letters and digits. Only its check digit depends on the carrier. A number need "
        "not have one of its carrier's formats below, because carriers use more formats than they publish: a number in "
        "another format, of another carrier or without a carrier is accepted.",
        "",
        "Where the number has one of these formats, its check digit must be right (`invalid_checksum`). If it has "
        "several of the carrier's formats, one of them with the right check digit is enough.",
        "",
        "The weights begin at the character before the check digit, go to the left and repeat.",
        "",
        "Numbers of other carriers (Amazon, CDL, LaserShip, …) and the other formats of these carriers (DHL eCommerce "
        "`GM…`, DHL pieces `JJD…`, UPS Mail Innovations, …) have no check digit that is published.",
        "",
        "The carrier's code and names count in any spelling: `FedEx`, `fed_ex` and `FEDEX` are the same.",
    )
    for carrier in carriers().values():
        names = ", ".join(carrier.names)
        yield from ("", f"## {carrier.names[0]}", "", f"Code `{carrier.code}`; names: {names}.", "")
        yield from _table(
            ("format", "pattern", "check digit", "example"),
            (
                (known.name, f"`{known.pattern}`", _check_digit_text(known), f"`{known.example}`")
                for known in carrier.formats
            ),
        )


def _check_digit_text(known: Format) -> str:
    place = f"before the last {known.after} characters" if known.after else "last"
    implied = f"; {known.implied} is summed before the number" if known.implied else ""
    return f"{place}; {known.words}{implied}"


def _lines(resource: Resource) -> Iterator[str]:
    available = RESOURCES[resource.name].actions
    yield from (
        f"<!-- Made by `{GENERATOR}`: change the resource, not this page. -->",
        "",
        f"# {resource.table.capitalize()}",
        "",
        f"Resource `{resource.name}`, table `{resource.table}`. "
        f"Actions: {', '.join(f'`{action.value}`' for action in UploadAction if action in available)}.",
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
                _value(field),
                " or ".join(word for kind, word in _KIND_WORDS.items() if kind in field.kinds),
                f"rows of `{field.link.table}`" if isinstance(field, References) else field.sql_type,
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
    yield from _table(("code", "because it", "fields"), _rule_rows(resource))


def _value(field: Field) -> str:
    return value_text(field) if field.default is None else f"{value_text(field)}; default `{field.default}`"


def _key_text(key: NaturalKey) -> str:
    parts = [" and ".join(f"`{column}`" for column in key.columns)]
    if len(key.columns) > 1:
        how_many = "both" if len(key.columns) == 2 else "all"
        parts.append(f"{how_many} compared in full, a missing one being equal to a missing one")
    if key.fold_case:
        parts.append("upper and lower case being the same")
    if key.when is not None and key.when != key.columns[0]:
        parts.append(f"where the item has `{key.when}`")
    if key.only_records_without is not None:
        parts.append(f"among the records without `{key.only_records_without}`")
    return ", ".join(parts)


def _rule_rows(resource: Resource) -> Iterator[tuple[str, str, str]]:
    """One row per rule, with all the fields that have it."""
    having: dict[tuple[str, str], list[str]] = {}
    for field in resource.fields:
        for name, code, because in _rules_of(field):
            names = having.setdefault((code, because), [])
            if name not in names:
                names.append(name)
    for rule in resource.record_rules:
        having.setdefault((rule.code, rule.expectation), []).append(f"`{rule.field}`")
    for arrow_rule in resource.arrow_rules:
        for complaint in arrow_rule.complaints.values():
            having.setdefault((complaint.code, complaint.expectation), []).append(f"`{arrow_rule.field}`")
    for (code, because), names in having.items():
        yield f"`{code}`", because, ", ".join(names)


def _rules_of(field: Field) -> Iterator[tuple[str, str, str]]:
    """(where, code, error text) of each rule of a field."""
    name = f"`{field.name}`"
    if field.required:
        yield name, "required", "is missing from a new record, or would be cleared"
    complaints = field.complaints(_ANY_REGION).values()
    if all(
        complaint.code != "invalid_type" for complaint in complaints
    ):  # else that error has the text for all formats
        yield name, "invalid_type", f"{field.type_expectation} (in JSON)"
    yield from _each(name, (*complaints, *field.rules()))
    if isinstance(field, KeyedText):
        yield name, "too_many", f"would have more than {field.max_pairs} pairs when stored"
        yield from _each(f"names in {name}", field.key_rules())
        yield from _each(f"values in {name}", field.value_rules())
    if isinstance(field, KeyedObject | ObjectList):
        yield f"names in {name}", "unknown_field", f"is not one of {', '.join(key.name for key in field.keys)}"
        yield from _rules_of_keys(field)
    if isinstance(field, ScalarList):
        for element in field.elements:
            yield from ((f"elements of {name}", code, because) for _, code, because in _rules_of(element))
        if field.min_items:
            yield name, "invalid_format", f"has fewer than {field.min_items} elements"
    if isinstance(field, ListField):
        yield name, "too_many", field.most
    if isinstance(field, References):
        yield from _rules_of_references(field)
    if isinstance(field, Nested) and field.has_dotted_headers and not isinstance(field, KeyedText):
        yield name, "conflict", TWICE


def _rules_of_keys(field: KeyedObject | ObjectList) -> Iterator[tuple[str, str, str]]:
    having: dict[tuple[str, str], list[str]] = {}
    for key in field.keys:
        for _, code, because in _rules_of(key):
            having.setdefault((code, because), []).append(key.name)
    for (code, because), names in having.items():
        if len(names) == len(field.keys):
            yield f"values in `{field.name}`", code, because
        else:
            yield from ((f"`{name}` in `{field.name}`", code, because) for name in names)


def _rules_of_references(field: References) -> Iterator[tuple[str, str, str]]:
    name = f"`{field.name}`"
    each = f"each of {name}"
    yield from _each(each, field.element_rules())
    yield each, "reference_not_found", field.target.not_found
    yield each, "ambiguous_match", field.target.ambiguous
    if field.operations:
        yield f"names in {name}", "unknown_field", f"is not one of {', '.join(field.operations)}"
        yield name, "conflict", SET_WITH_OTHERS
        yield each, "conflict", ADDED_AND_REMOVED
    if isinstance(field, Members) and field.elsewhere is not None:
        yield each, "invalid_format", field.elsewhere.malformed
        yield f"`{field.elsewhere.field}`", "conflict", field.left_behind
    if isinstance(field, MarkedMembers):
        yield each, "conflict", field.not_a_member


def _each(name: str, rules: Iterable[Rule | Complaint]) -> Iterator[tuple[str, str, str]]:
    for rule in rules:
        yield name, rule.code, rule.expectation


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def main(arguments: Sequence[str]) -> int:
    """Writes the page of every resource, and that of the carriers, into the folder given. Returns the exit code."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        sys.stderr.write("usage: python -m batch_pipeline.records.describe FOLDER (an existing one)\n")
        return 2
    for name, text in pages().items():
        page = Path(arguments[0]) / name
        page.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
