"""JSON uploads: one array, read item by item in bounded memory.

The decoder decides what is JSON. A text that breaks RFC 8259 refuses the file, with the decoder's position and message.
So does an item over a limit, because its end can only be found by decoding it.
"""

import re
from collections.abc import Iterator
from json import JSONDecodeError

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import CHUNK_BYTES, check_item_count, cut_text
from batch_pipeline.payloads.encoding import TextFile
from batch_pipeline.payloads.json_items import ChunkBuilder, ItemDecoder, ItemLimitError
from batch_pipeline.payloads.model import Payload, RawChunk, ReadLimits

_BLANKS = re.compile(r"[ \t\n\r]*+")
# A number, word or escape that the end of the text at hand cuts is reported at most this far before that end.
_LONGEST_CUT = 16


class TextBuffer:
    """The part of a text that is being read, and where in the text it stands.

    Attributes:
        text: what is at hand.
        final: nothing comes after it.
        may_have_surrogates: it has an escape that may be half a surrogate pair.
    """

    def __init__(self, texts: Iterator[str], max_item_bytes: int) -> None:
        self._texts = texts
        self._most = max_item_bytes + _LONGEST_CUT + 1  # with this much at hand an item is whole or too large
        self._line = self._column = 1
        self.text = ""
        self.final = False
        self.may_have_surrogates = False

    def more(self, used: int) -> None:
        """Drops the first ``used`` characters and reads on.

        It reads as much as is left, because a long item is decoded anew each time, but not beyond the largest item.
        """
        dropped = self.text[:used]
        if lines := dropped.count("\n"):
            self._line += lines
            self._column = len(dropped) - dropped.rfind("\n")
        else:
            self._column += len(dropped)
        parts = [self.text[used:]]
        left = len(parts[0])
        wanted = max(1, min(left, self._most - left))
        while wanted > 0:
            part = next(self._texts, None)
            if part is None:
                self.final = True
                break
            parts.append(part)
            wanted -= len(part)
        self.text = "".join(parts)
        self.may_have_surrogates = "\\ud" in self.text or "\\uD" in self.text

    def place(self, position: int) -> str:
        """Line and column of a position of ``text``, both counted from 1."""
        before = self.text[:position]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") if lines else self._column + len(before)
        return f"line {self._line + lines}, column {column}"

    def error(self, position: int, message: str) -> RefusedError:
        """The refusal of the file for what stands at a position of ``text``."""
        return RefusedError("unreadable_file", f"The file is not valid JSON: {self.place(position)}: {message}.")


class JsonPayload(Payload):
    """A JSON array; its elements are the items."""

    format = "json"
    is_flat = False

    def __init__(self, text: TextFile, limits: ReadLimits, *, block_bytes: int) -> None:
        self._text = text
        self._limits = limits
        self._block_bytes = block_bytes

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        buffer = TextBuffer(self._text.texts(self._block_bytes), self._limits.max_item_bytes)
        return _ArrayReading(buffer, self._limits).chunks()


class _ArrayReading:
    """One reading of an array: its position in the buffer, and the items collected for the next chunk."""

    def __init__(self, buffer: TextBuffer, limits: ReadLimits) -> None:
        self._buffer = buffer
        self._limits = limits
        self._decoder = ItemDecoder(limits)
        self._builder = ChunkBuilder(limits)
        self._position = 0
        self._row = 0
        self._characters = 0
        self._ended = False

    def chunks(self) -> Iterator[RawChunk]:
        self._begin()
        while not self._ended:
            try:
                is_at_edge = self._read_items()
                if self._builder.count >= self._limits.chunk_rows or self._characters >= CHUNK_BYTES:
                    check_item_count(self._row, self._limits)
                    yield self._builder.build()
                    self._characters = 0
                if is_at_edge:
                    self._read_item_at_edge()
            except ItemLimitError as error:
                place = self._buffer.place(self._position)
                raise RefusedError("too_large", f"In {place}: {error}.") from None
        if self._skip_blanks():
            raise self._buffer.error(self._position, "Extra data after the array")
        check_item_count(self._row, self._limits)
        if self._builder.count:
            yield self._builder.build()

    def _skip_blanks(self) -> str:
        """Moves to the next character that is not blank and gives it; '' at the end of the file."""
        buffer = self._buffer
        while True:
            self._position = _end_of_blanks(buffer.text, self._position)
            if self._position < len(buffer.text):
                return buffer.text[self._position]
            if buffer.final:
                return ""
            buffer.more(self._position)
            self._position = 0

    def _begin(self) -> None:
        if self._skip_blanks() != "[":
            raise self._buffer.error(self._position, "Expecting an array of items, [ … ]")
        self._position += 1
        if self._skip_blanks() == "]":
            self._position += 1
            self._ended = True

    def _read_items(self) -> bool:
        """Reads items up to the end of the chunk or array; True if `_read_item_at_edge` must read the next one."""
        buffer, decode, fault_of = self._buffer, self._decoder.decode, self._decoder.fault
        text, size, surrogates = buffer.text, len(buffer.text), buffer.may_have_surrogates
        rows, items = self._builder.rows, self._builder.items
        room = self._limits.chunk_rows - self._builder.count
        start = first = self._position
        row = self._row
        try:
            while room > 0 and start - first < CHUNK_BYTES and not self._ended:
                try:
                    item, end = decode(text, start)
                except JSONDecodeError:
                    return True
                separator = end
                if separator < size and text[separator] not in ",]":
                    separator = _end_of_blanks(text, separator)
                if separator == size or text[separator] not in ",]":
                    return True
                fault = fault_of(item, text, start, end, may_have_surrogates=surrogates)
                row += 1
                room -= 1
                if fault is None:
                    rows.append(row)
                    items.append(item)
                else:
                    self._reject(row, text[start:end], fault)
                self._ended = text[separator] == "]"
                start = separator + 1
                if start < size and text[start] != "{":
                    start = _end_of_blanks(text, start)
            return False
        finally:
            self._characters += start - first
            self._position, self._row = start, row

    def _read_item_at_edge(self) -> None:
        """Reads the item at the position and its separator, with as much more text as that takes."""
        self._skip_blanks()
        buffer, position = self._buffer, self._position
        while True:
            try:
                item, end = self._decoder.decode(buffer.text, position)
            except JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string")
                stop, message = (len(buffer.text), "Unterminated string") if is_cut else (error.pos, error.msg)
            else:
                if buffer.final or len(buffer.text) - end >= _LONGEST_CUT:
                    break
                stop, message = end, ""
            if stop - position > self._limits.max_item_bytes:
                raise ItemLimitError(self._decoder.size_fault())
            if buffer.final or len(buffer.text) - stop >= _LONGEST_CUT:
                raise buffer.error(stop, message)
            buffer.more(position)
            self._position = position = 0
        surrogates = buffer.may_have_surrogates
        fault = self._decoder.fault(item, buffer.text, position, end, may_have_surrogates=surrogates)
        self._row += 1
        if fault is None:
            self._builder.rows.append(self._row)
            self._builder.items.append(item)
        else:
            self._reject(self._row, buffer.text[position:end], fault)
        self._characters += end - position
        self._position = end
        separator = self._skip_blanks()
        if not separator or separator not in ",]":
            raise buffer.error(self._position, "Expecting ',' delimiter or ]")
        self._ended = separator == "]"
        self._position += 1
        if not self._ended:
            self._skip_blanks()

    def _reject(self, row: int, text: str, fault: str) -> None:
        self._builder.unreadable.add(row, cut_text(text.encode(), self._limits.max_item_bytes), fault)


def _end_of_blanks(text: str, position: int) -> int:
    found = _BLANKS.match(text, position)
    return position if found is None else found.end()
