"""What a sender is told about the header of an upload: bounded, and without cells of a file that has no header."""

import shlex
from collections.abc import Mapping, Sequence

from batch_pipeline.batches.mappings import RememberedMapping
from batch_pipeline.errors import UnknownColumnsError
from batch_pipeline.records.header_names import looks_like_value
from batch_pipeline.records.resource import Resource

SHOWN_COLUMNS = 10
SHOWN_CHARACTERS = 40


def named(
    headers: Sequence[str], header: Sequence[str], *, counts: Mapping[str, int] | None = None, most: int = SHOWN_COLUMNS
) -> str:
    """The headers, shortened, and how many more there are. One that may be a value is named by its place in `header`.

    `counts`: the items with a value in each.
    """
    texts = [
        _shown(each, header) + ("" if counts is None else f" ({counts[each]:,} with a value)")
        for each in headers[:most]
    ]
    more = len(headers) - most
    return ", ".join(texts) + (f" and {more:,} more" if more > 0 else "")


def flags(mapping: Mapping[str, str]) -> str:
    """The mapping as flags of the command line, quoted for a shell."""
    return " ".join(f"--map {shlex.quote(f'{name}=')}{shlex.quote(header)}" for name, header in mapping.items())


def refusal(
    resource: Resource,
    header: Sequence[str],
    unknown: Sequence[str],
    *,
    has_names: bool,
    suggested: Mapping[str, str],
    remembered: RememberedMapping | None,
    mapping: Mapping[str, str],
) -> UnknownColumnsError:
    """The error for a header with unknown columns, which suggests a mapping where one is remembered or certain.

    `mapping` is the one that the batch gives; the suggested one includes it.
    """
    known = f"Known are: {resource.header_help()}."
    if not has_names:
        return UnknownColumnsError(
            f"The first row names no column of {resource.name}, so it seems to be data: add a header row. {known}"
        )
    parts = [f"The header has columns that {resource.name} does not have: {named(unknown, header)}."]
    complete: dict[str, str] | None = None
    if remembered is not None and dict(remembered.mapping) != dict(mapping):
        complete = dict(remembered.mapping)
        parts.append(
            f"{remembered.batch_id} completed with a column_mapping for this header: to apply it, "
            "send the file with --map remembered."
        )
    elif suggested:
        complete = {**mapping, **suggested}
        parts.append(f"Map them (column_mapping): {flags(complete)}.")
    mapped = set() if complete is None else set(complete.values())
    left = [each for each in unknown if each not in mapped]
    if left:
        which = "the others" if complete else "them"
        parts.append(f"Remove, rename or map {which}, or leave them out with --unknown-columns ignore. {known}")
    return UnknownColumnsError(" ".join(parts), complete)


def _shown(name: str, header: Sequence[str]) -> str:
    if looks_like_value(name):
        return f"column {header.index(name) + 1}" if name in header else "one that looks like a value"
    text = "".join(character if character.isprintable() else " " for character in name)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
