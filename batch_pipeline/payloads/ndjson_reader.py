"""NDJSON uploads: one JSON value per line; a line that can't be read is an unreadable row by itself."""

from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import CHUNK_BYTES, check_item_count, cut_text
from batch_pipeline.payloads.encoding import TextFile
from batch_pipeline.payloads.json_items import ChunkBuilder, ItemDecoder, ItemLimitError
from batch_pipeline.payloads.model import Payload, RawChunk, ReadLimits

_BLANK_CHARACTERS = " \t\r"


class NdjsonPayload(Payload):
    """Lines that hold one object each; lines of blanks are no rows. Lines end with LF or CRLF."""

    format = "ndjson"
    is_flat = False

    def __init__(self, text: TextFile, limits: ReadLimits, *, block_bytes: int) -> None:
        self._text = text
        self._limits = limits
        self._block_bytes = block_bytes

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`. Only ``too_large`` refuses the file."""
        limits = self._limits
        decoder, builder = ItemDecoder(limits), ChunkBuilder(limits)
        too_large = decoder.size_fault()
        row = room_used = characters = 0
        for lines, first_is_cut in _line_blocks(self._text.texts(self._block_bytes), limits.max_item_bytes):
            for index, line in enumerate(lines):
                if not line or (line.isspace() and not line.strip(_BLANK_CHARACTERS)):
                    continue
                item: Any = None
                fault: str | None = too_large
                row += 1
                room_used += 1
                characters += len(line)
                if not (index == 0 and first_is_cut):
                    item, fault = _read_line(decoder, line)
                if fault is None:
                    builder.rows.append(row)
                    builder.items.append(item)
                else:
                    raw = line.rstrip("\r").encode()
                    builder.unreadable.add(row, cut_text(raw, limits.max_item_bytes), fault)
                if room_used >= limits.chunk_rows or characters >= CHUNK_BYTES:
                    check_item_count(row, limits)
                    yield builder.build()
                    room_used = characters = 0
        check_item_count(row, limits)
        if room_used:
            yield builder.build()


def _line_blocks(texts: Iterator[str], max_item_bytes: int) -> Iterator[tuple[list[str], bool]]:
    """Lines without their LF, by blocks, and whether the first is only the start of one that is too large."""
    carry: list[str] = []
    carried = 0
    is_cut = False
    for text in texts:
        first_end = text.find("\n")
        if first_end < 0:
            if carried <= max_item_bytes:
                carry.append(text)
                carried += len(text)
            else:
                is_cut = True
            continue
        lines = text.split("\n")
        if carried > max_item_bytes:
            is_cut = True
        lines[0] = "".join([*carry, lines[0]])
        rest = lines.pop()
        yield lines, is_cut
        carry, carried, is_cut = [rest], len(rest), False
    yield ["".join(carry)], is_cut or carried > max_item_bytes


def _read_line(decoder: ItemDecoder, line: str) -> tuple[Any, str | None]:
    """The line's value and None, or what is wrong with it."""
    start = 0 if line[0] == "{" else len(line) - len(line.lstrip(_BLANK_CHARACTERS))
    try:
        item, end = decoder.decode(line, start)
        if end < len(line) and (trailing := line[end:].lstrip(_BLANK_CHARACTERS)):
            raise JSONDecodeError("Extra data", line, len(line) - len(trailing))
        surrogates = "\\ud" in line or "\\uD" in line
        return item, decoder.fault(item, line, start, end, may_have_surrogates=surrogates)
    except JSONDecodeError as error:
        return None, f"the line is not valid JSON: column {error.pos + 1}: {error.msg}"
    except ItemLimitError as error:
        return None, str(error)


def refuse_single_object(text: TextFile, limits: ReadLimits, *, is_named_json: bool, is_named_lines: bool) -> None:
    """Refuses a file that is one object over several lines, or, named ``.json``, one object and nothing else.

    A file that begins with { is NDJSON if its first line is a value, or looks like one. Raises RefusedError
    ``unreadable_file``.
    """
    if is_named_lines:
        return
    head = ""
    for part in text.texts(64 << 10):
        head += part
        if len(head) > limits.max_item_bytes:
            break
    head = head.lstrip()
    first_line, _, _ = head.partition("\n")
    try:
        _, end = ItemDecoder(limits).decode(head, 0)
    except (JSONDecodeError, ItemLimitError):
        is_one_line = is_alone = False
        is_broken_line = first_line.rstrip().endswith("}")
    else:
        is_one_line = end <= len(first_line)
        is_alone = is_one_line and not head[end:].strip()
        is_broken_line = False
    if is_broken_line or (is_one_line and not (is_alone and is_named_json)):
        return
    raise RefusedError(
        "unreadable_file",
        "The file is not a JSON array: it begins with an object that "
        + ("is all there is" if is_alone else "goes on over several lines")
        + ". Wrap the items in [ ], or write each item as one line (NDJSON).",
    )
