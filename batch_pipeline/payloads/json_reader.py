"""JSON uploads: one array, read item by item; what breaks the grammar refuses it with line and column."""

import re
from collections.abc import Iterator

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.chunking import CHUNK_BYTES, check_item_count, cut_text
from batch_pipeline.payloads.encoding import TextFile
from batch_pipeline.payloads.json_grammar import GrammarError, ValueScanner
from batch_pipeline.payloads.json_items import DECODER_ERRORS, ChunkBuilder, ItemDecoder
from batch_pipeline.payloads.model import Payload, PayloadFormat, RawChunk, ReadLimits

_BLANKS = re.compile(r"[ \t\n\r]*+")
# Of a number that goes on, this much may stand beyond what is a number already: the start of an exponent, `e+`.
_LONGEST_CUT = 2


class TextBuffer:
    """The part of a text that is being read, and where in the text it stands.

    Attributes:
        text: what is at hand.
        final: nothing comes after it.
        may_have_surrogates: it has an escape that may be half a surrogate pair.
    """

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self._line = self._column = 1
        self.text = ""
        self.final = False
        self.may_have_surrogates = False

    def more(self, used: int) -> None:
        """Drops the first ``used`` characters and reads on.

        At least as much as is left: a long item, tried again each time, must not take quadratic time.
        """
        dropped = self.text[:used]
        if lines := dropped.count("\n"):
            self._line += lines
            self._column = len(dropped) - dropped.rfind("\n")
        else:
            self._column += len(dropped)
        parts = [self.text[used:]]
        wanted = max(1, len(parts[0]))
        while wanted > 0:
            part = next(self._texts, None)
            if part is None:
                self.final = True
                break
            parts.append(part)
            wanted -= len(part)
        self.text = "".join(parts)
        self.may_have_surrogates = "\\ud" in self.text or "\\uD" in self.text

    def error(self, position: int, message: str) -> RefusedError:
        """The refusal of the file for what stands at a position of ``text``."""
        before = self.text[:position]
        lines = before.count("\n")
        column = len(before) - before.rfind("\n") if lines else self._column + len(before)
        return RefusedError(
            "unreadable_file",
            f"The file is not valid JSON: line {self._line + lines}, column {column}: {message}.",
        )


class JsonPayload(Payload):
    """A JSON array; its elements are the items."""

    format = PayloadFormat.JSON

    def __init__(self, text: TextFile, limits: ReadLimits, *, block_bytes: int) -> None:
        self._text = text
        self._limits = limits
        self._block_bytes = block_bytes

    def chunks(self) -> Iterator[RawChunk]:
        """See `Payload.chunks`."""
        return _ArrayReading(TextBuffer(self._text.texts(self._block_bytes)), self._limits).chunks()


class _ArrayReading:
    """One reading of an array: where it stands in the buffer, and what it has collected."""

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
            stuck = self._read_items()
            full = self._builder.count >= self._limits.chunk_rows
            if full or self._characters >= CHUNK_BYTES:
                check_item_count(self._row, self._limits)
                yield self._builder.build()
                self._characters = 0
            if stuck:
                self._read_hard_item()
        self._expect_end()
        check_item_count(self._row, self._limits)
        if self._builder.count:
            yield self._builder.build()

    def _skip_blanks(self) -> str:
        """Moves to the next character that is not blank and gives it; '' at the end of the file."""
        buffer = self._buffer
        while True:
            found = _BLANKS.match(buffer.text, self._position)
            self._position = self._position if found is None else found.end()
            if self._position < len(buffer.text):
                return buffer.text[self._position]
            if buffer.final:
                return ""
            buffer.more(self._position)
            self._position = 0

    def _begin(self) -> None:
        if self._skip_blanks() != "[":
            raise self._buffer.error(self._position, "a JSON file must be an array of items, [ … ]")
        self._position += 1
        if self._skip_blanks() == "]":
            self._position += 1
            self._ended = True

    def _expect_end(self) -> None:
        if self._skip_blanks():
            raise self._buffer.error(self._position, "nothing may follow the array's closing ]")

    def _read_items(self) -> bool:
        """Reads items fast; True if it stopped at one that `_read_hard_item` must read."""
        self._skip_blanks()
        buffer, decoder, builder = self._buffer, self._decoder, self._builder
        text, surrogates = buffer.text, buffer.may_have_surrogates
        scan, fault_of, blanks = decoder.scan, decoder.fault, _BLANKS.match
        rows, items = builder.rows, builder.items
        room = self._limits.chunk_rows - builder.count
        start = first = self._position
        size, row = len(text), self._row
        stuck = False
        while room > 0 and start - first < CHUNK_BYTES:
            try:
                item, end = scan(text, start)
            except DECODER_ERRORS:
                stuck = True
                break
            separator = end
            if separator < size and text[separator] not in ",]":
                separator = blanks(text, separator).end()  # type: ignore[union-attr]  # matches the empty text too
            following = separator + 1
            if separator < size and text[separator] == ",":
                if following < size and text[following] != "{":
                    following = blanks(text, following).end()  # type: ignore[union-attr]
            elif separator < size and text[separator] == "]":
                self._ended = True
            else:
                stuck = True
                break
            row += 1
            room -= 1
            fault = fault_of(item, text, start, end, may_have_surrogates=surrogates)
            if fault is None:
                rows.append(row)
                items.append(item)
            else:
                raw = cut_text(text[start:end].encode(), self._limits.max_item_bytes)
                builder.unreadable.add(row, raw, fault)
            start = following
            if self._ended:
                break
        self._characters += start - first
        self._position, self._row = start, row
        return stuck

    def _read_hard_item(self) -> None:
        """Brings more text for the item at the position, or else reads it slowly."""
        self._decoder.forget()
        buffer = self._buffer
        if not buffer.final and len(buffer.text) - self._position <= self._limits.max_item_bytes + 1:
            buffer.more(self._position)
            self._position = 0
            return
        self._skip_blanks()
        text, start = buffer.text, self._position
        try:
            item, end = self._decoder.scan(text, start)
        except DECODER_ERRORS:
            self._read_by_grammar()
        else:
            if type(item) is not dict and len(text) - end <= _LONGEST_CUT and not buffer.final:
                self._read_by_grammar()  # a number may go on
            else:
                surrogates = buffer.may_have_surrogates
                fault = self._decoder.fault(item, text, start, end, may_have_surrogates=surrogates)
                self._position = end
                self._row += 1
                if fault is None:
                    self._builder.rows.append(self._row)
                    self._builder.items.append(item)
                else:
                    raw = cut_text(text[start:end].encode(), self._limits.max_item_bytes)
                    self._builder.unreadable.add(self._row, raw, fault)
        self._read_separator()

    def _read_by_grammar(self) -> None:
        """Reads over a value that the decoder can't take, keeping its start only; refuses what is none."""
        self._decoder.forget()
        buffer, limit = self._buffer, self._limits.max_item_bytes
        scanner = ValueScanner()
        head = b""
        size = 0
        while True:
            try:
                end = scanner.feed(buffer.text, self._position, final=buffer.final)
            except GrammarError as error:
                raise buffer.error(error.position, error.message) from None
            part = buffer.text[self._position : end].encode()
            head += part[: limit + 1 - len(head)]
            size += len(part)
            self._position = end
            if scanner.done:
                break
            buffer.more(end)
            self._position = 0
        self._row += 1
        if size > limit:
            fault = self._decoder.item_size_fault()
        elif scanner.deepest > 0:
            fault = self._decoder.depth_fault()
        else:
            fault = "the item is not an object"
        self._builder.unreadable.add(self._row, cut_text(head, limit), fault)

    def _read_separator(self) -> None:
        separator = self._skip_blanks()
        if separator == "]":
            self._ended = True
        elif separator != ",":
            found = f"not {separator!r}" if separator else "but the file ends"
            raise self._buffer.error(self._position, f", or ] is expected after an item, {found}")
        self._position += 1
        if not self._ended:
            self._skip_blanks()
