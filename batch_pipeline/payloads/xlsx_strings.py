"""The shared strings of a workbook, kept on disk: a cell names its text by number, and there may be millions."""

import mmap
import re
import zipfile
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Self

from batch_pipeline.payloads.xlsx_package import LocalNames, broken, xml_blocks, xml_parser

LOOK_UPS_KEPT = 20_000

_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")


def unescaped(text: str) -> str:
    """Text with the characters that XML can't hold, which Excel writes as ``_x000D_``."""
    return _ESCAPED.sub(_character, text) if "_x" in text else text


def _character(found: re.Match[str]) -> str:
    code = int(found[1], 16)
    return found[0] if 0xD800 <= code <= 0xDFFF else chr(code)


class SharedStrings:
    """A sequence of texts in two files: their UTF-8, and where each one ends.

    A text longer than ``max_bytes`` is cut to one byte more, by which it is still known to be too long.
    """

    def __init__(self, texts: Path, ends: Path) -> None:
        self._maps = [_mapped(texts), _mapped(ends)]
        self._texts = self._maps[0]
        self._ends = memoryview(self._maps[1]).cast("Q")
        self._looked_up = 0

    @classmethod
    def read(
        cls, archive: zipfile.ZipFile, part: str | None, spool: Path, *, max_bytes: int, check: Callable[[], None]
    ) -> Self:
        """Reads a workbook's part, in a stream, into files whose names begin with the spool's."""
        texts, ends = spool.with_name(spool.name + ".strings"), spool.with_name(spool.name + ".ends")
        for path in (texts, ends):
            path.unlink(missing_ok=True)  # an earlier reading may still have it mapped
        with texts.open("wb") as texts_file, ends.open("wb") as ends_file:
            if part is not None:
                writer = _Collector(max_bytes)
                size = 0
                for block in xml_blocks(archive, part):
                    writer.parser.Parse(block, not block)
                    found = [text.encode()[: max_bytes + 1] for text in writer.texts]
                    writer.texts.clear()
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
        self._looked_up += 1
        if self._looked_up % LOOK_UPS_KEPT == 0:
            self._forget()
        start = self._ends[number - 1] if number else 0
        return self._texts[start : self._ends[number]].decode(errors="ignore")

    def _forget(self) -> None:
        """Gives back the memory of what was looked at; the files are still there."""
        for found in self._maps:
            if isinstance(found, mmap.mmap):
                found.madvise(mmap.MADV_DONTNEED)


class _Collector:
    """Collects the texts of ``si`` elements, without the phonetic ones beside them."""

    def __init__(self, max_characters: int) -> None:
        self.texts: list[str] = []
        self.parser = xml_parser()
        self._names = LocalNames()
        self._max = max_characters
        self._parts: list[str] = []
        self._size = 0
        self._phonetic = 0
        self._in_text = False
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = self._names[name]
        if tag == "t":
            self._in_text = not self._phonetic
        elif tag == "si":
            self._parts.clear()
            self._size = 0
        elif tag == "rPh":
            self._phonetic += 1

    def _end(self, name: str) -> None:
        tag = self._names[name]
        if tag == "t":
            self._in_text = False
        elif tag == "si":
            self.texts.append(unescaped("".join(self._parts)))
        elif tag == "rPh":
            self._phonetic -= 1

    def _data(self, text: str) -> None:
        if self._in_text and self._size <= self._max:
            self._parts.append(text[: self._max + 1])
            self._size += len(text)


def _mapped(path: Path) -> mmap.mmap | bytes:
    if path.stat().st_size == 0:
        return b""  # can't be mapped
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
