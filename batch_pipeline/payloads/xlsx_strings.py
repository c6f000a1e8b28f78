"""The shared strings of a workbook, kept on disk: a cell names its text by number, and there may be millions."""

import mmap
import re
import zipfile
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Self

from batch_pipeline.payloads.xlsx_xml import XmlReader, broken, xml_blocks

# Mapped memory is given back after reading this much. A look-up in each of two files maps 64 KiB around it (Linux).
MAPPED_BYTES = 64 << 20
LOOK_UP_BYTES = 2 * (64 << 10)

_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def unescaped(text: str) -> str:
    """Text with the characters that XML can't hold, which Excel writes as ``_x000D_``."""
    return _ESCAPED.sub(_character, text) if "_x" in text else text


def _character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return found[0] if 0xD800 <= code <= 0xDFFF else chr(code)


class SharedStrings:
    """A sequence of texts in two files: their UTF-8, and where each one ends.

    A text longer than ``max_characters`` is cut to one character more, by which it is recognised as too long.
    """

    def __init__(self, texts: Path, ends: Path) -> None:
        self._maps = [_mapped(texts), _mapped(ends)]
        self._texts = self._maps[0]
        self._ends = memoryview(self._maps[1]).cast("Q")
        self._mapped_bytes = 0

    @classmethod
    def read(
        cls, archive: zipfile.ZipFile, part: str | None, spool: Path, *, max_characters: int, check: Callable[[], None]
    ) -> Self:
        """Reads a workbook's part, in a stream, into files whose names begin with the spool's."""
        texts, ends = spool.with_name(spool.name + ".strings"), spool.with_name(spool.name + ".ends")
        for path in (texts, ends):
            path.unlink(missing_ok=True)  # an earlier reading may still have it mapped
        with texts.open("wb") as texts_file, ends.open("wb") as ends_file:
            if part is not None:
                collector = _Collector(max_characters)
                size = 0
                for block in xml_blocks(archive, part):
                    collector.parse(block)
                    found = [text.encode() for text in collector.texts]
                    collector.texts.clear()
                    numbers = array("Q")
                    for text in found:
                        size += len(text)
                        numbers.append(size)
                    texts_file.write(b"".join(found))
                    numbers.tofile(ends_file)
                    check()
        return cls(texts, ends)

    def __getitem__(self, number: int) -> str:
        """Raises RefusedError ``unreadable_file``: there is no such text."""
        if not 0 <= number < len(self._ends):
            raise broken(f"a cell names text {number}, which is not there")
        start = self._ends[number - 1] if number else 0
        end = self._ends[number]
        self._mapped_bytes += end - start + LOOK_UP_BYTES
        if self._mapped_bytes > MAPPED_BYTES:
            self._forget()
        return self._texts[start:end].decode()

    def _forget(self) -> None:
        """Gives back the memory of what was looked up; the files keep it."""
        self._mapped_bytes = 0
        for found in self._maps:
            if isinstance(found, mmap.mmap):
                found.madvise(mmap.MADV_DONTNEED)


class _Collector(XmlReader):
    """Collects the texts of ``si`` elements, without the phonetic ones beside them."""

    def __init__(self, max_characters: int) -> None:
        super().__init__(max_characters)
        self.texts: list[str] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """See `XmlReader.start`."""
        if tag == "t":
            self._in_text = not self._phonetic
        elif tag == "si":
            self._parts.clear()
            self._room = self._max + 1

    def end(self, tag: str) -> None:
        """See `XmlReader.end`."""
        if tag == "t":
            self._in_text = False
        elif tag == "si":
            self.texts.append(unescaped("".join(self._parts)))


def _mapped(path: Path) -> mmap.mmap | bytes:
    if path.stat().st_size == 0:
        return b""  # an empty file can't be mapped
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
