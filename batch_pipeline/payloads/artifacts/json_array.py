"""A file that is one JSON array, an element a line, written as a stream."""

from typing import BinaryIO

import pyarrow as pa

from batch_pipeline.payloads import texts


class JsonArrayFile:
    """Puts JSON texts into an array. The file is written from where it is, and not closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_empty = True

    def begin(self) -> None:
        """Opens the array."""
        self._file.write(b"[")

    def write(self, elements: pa.StringArray) -> None:
        """Adds elements, each a JSON text without line breaks."""
        if len(elements) == 0:
            return
        if self._is_empty:
            self._file.write(b"\n")
            self._is_empty = False
        else:
            self._file.write(b",\n")
        texts.write_texts(self._file, texts.concat(elements[:-1], ",\n"))
        texts.write_texts(self._file, elements[-1:])

    def end(self) -> None:
        """Closes the array, also an empty one."""
        self._file.write(b"]\n" if self._is_empty else b"\n]\n")
