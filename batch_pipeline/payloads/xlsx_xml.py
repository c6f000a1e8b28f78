"""XML of a workbook as a stream of events, in memory that is bounded whatever the XML holds.

expat keeps a token, the open elements and every name in memory: each has a bound here. Document types are refused: no
workbook needs one, and their entities can expand without end.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from xml.parsers import expat

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.unsupported import ZIP_ERRORS

BLOCK_BYTES = 256 << 10

# Each is far above what any program writes.
MAX_TOKEN_BYTES = 1 << 20
MAX_DEPTH = 100
MAX_NAMES = 20_000


class XmlReader:
    """Calls `start` and `end` for the elements of one XML part, by their names without prefix.

    Subclasses override both. They clear ``_parts`` and set ``_room`` where a text begins, and ``_in_text`` while one
    is collected; phonetic text (``rPh``) is none. A longer text than ``max_characters`` is cut to one character more.
    These are attributes instead of methods because a sheet has millions of texts.
    """

    def __init__(self, max_characters: int = 0) -> None:
        self._max = max_characters
        self._local_names: dict[str, str] = {}
        self._depth = self._fed = self._phonetic = self._room = 0
        self._in_text = False
        self._parts: list[str] = []
        self._interned: dict[str, str] = {}
        self._parser = expat.ParserCreate(intern=self._interned)
        self._parser.buffer_text = True
        self._parser.StartDoctypeDeclHandler = _refuse_document_type
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element starts."""

    def end(self, tag: str) -> None:
        """An element ends."""

    def parse(self, block: bytes) -> None:
        """Parses a block; an empty one ends the part. Raises expat's errors, and RefusedError where a bound is hit."""
        self._parser.Parse(block, not block)
        self._fed += len(block)
        if self._fed - self._parser.CurrentByteIndex > MAX_TOKEN_BYTES:
            raise broken(f"a part has an element or comment of more than {MAX_TOKEN_BYTES:,} bytes")
        if len(self._interned) > MAX_NAMES:
            raise broken(f"a part has more than {MAX_NAMES:,} names of elements and attributes")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise broken(f"elements are nested deeper than {MAX_DEPTH}")
        tag = self._local_names.get(name) or self._local_name(name)
        if tag == "rPh":
            self._phonetic += 1
        else:
            self.start(tag, attributes)

    def _end(self, name: str) -> None:
        self._depth -= 1
        tag = self._local_names[name]
        if tag == "rPh":
            self._phonetic -= 1
        else:
            self.end(tag)

    def _data(self, text: str) -> None:
        if self._in_text and self._room:
            text = text[: self._room]
            self._parts.append(text)
            self._room -= len(text)

    def _local_name(self, name: str) -> str:
        local = self._local_names[name] = name.rpartition(":")[2]
        return local


def xml_blocks(archive: zipfile.ZipFile, part: str) -> Iterator[bytes]:
    """A part's bytes, the last block being empty; never more than the size that the archive's directory states."""
    with archive.open(part) as file:
        while block := file.read(BLOCK_BYTES):
            yield block
    yield b""


@contextmanager
def refusing_what_is_broken() -> Iterator[None]:
    """Turns what the libraries raise for broken archives and parts into a refusal."""
    try:
        yield
    except (*ZIP_ERRORS, expat.ExpatError) as error:
        raise broken(" ".join(str(error).split())[:200]) from error
    except KeyError as error:  # zipfile raises it for a part that is named and not there
        raise broken(f"a part is missing: {error}") from error


def broken(what: str) -> RefusedError:
    """The refusal of a workbook that can't be read."""
    return RefusedError(
        "unreadable_file", f"The Excel workbook is broken ({what}): open it in Excel, save it and upload it again."
    )


def _refuse_document_type(*_: object) -> None:
    raise broken("it has a document type, which no workbook needs")
