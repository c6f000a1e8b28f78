"""The process that decodes a Parquet file (`parquet_decoder`), as its reader sees it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads import parquet_decoder
from batch_pipeline.payloads.parquet_decoder import BATCH_ROWS, HEADER, OUT_OF_MEMORY, ROWS, Kind

# One row may take this much as text. It is far above the limit of an item.
MAX_FRAME_BYTES = 64 << 20

_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # other allocators reserve address space, which the limit counts
    "MALLOC_ARENA_MAX": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# How a process ends that C++ code stopped, or the system, for want of memory.
_KILLED = {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGKILL}


class OutOfMemory(Exception):  # noqa: N818  (not an error by itself: the rows are read in smaller batches)
    """Decoding does not fit into the decoder's memory."""


class ParquetDecoder:
    """A running decoder. It ends with `close`, or with this process.

    Attributes:
        schema: the file's Arrow schema, as its writer stored it.
        rows: the number of rows that its footer states.
        first_row: the first row that it decodes, counted from 0.
        batch_rows: how many rows the decoder takes at once in the row group of the first row.
    """

    schema: pa.Schema
    rows: int
    first_row: int
    batch_rows: int

    def __init__(self, path: Path, *, first_row: int, divisor: int, max_rows: int) -> None:
        """Starts it and reads the schema. Raises RefusedError for a file without a usable footer."""
        self.first_row = first_row
        arguments = [str(number) for number in (first_row, divisor, max_rows)]
        self._process = subprocess.Popen(  # noqa: S603  (own module; the path is no option, as it is absolute)
            [sys.executable, "-P", "-m", parquet_decoder.__name__, os.fspath(path.absolute()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries may print values of the file
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is the reader's to handle
        )
        if self._process.stdout is None:
            raise RuntimeError("the process has no standard output")
        self._pipe = self._process.stdout
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the process, also while it decodes. May be called again."""
        self._process.kill()
        self._pipe.close()
        self._process.wait()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows from the first one on, each column as text. Raises RefusedError, OutOfMemory."""
        schema = pa.schema([(name, pa.string()) for name in self.schema.names])
        while (body := self._read(Kind.BATCH)) is not None:
            yield pa.ipc.read_record_batch(pa.py_buffer(body), schema)

    def _open(self) -> None:
        try:
            body = self._read(Kind.SCHEMA)
        except OutOfMemory:
            body = None
        if body is None:
            raise RefusedError(
                "too_large",
                f"The footer of the Parquet file takes more than {parquet_decoder.MEMORY_BYTES:,} bytes of memory: "
                "write it with fewer columns, less nesting or larger row groups.",
            )
        self.schema = pa.ipc.read_schema(pa.py_buffer(body))
        self.rows, self.batch_rows = (int(self.schema.metadata[key]) for key in (ROWS, BATCH_ROWS))

    def _read(self, kind: Kind) -> bytes | None:
        """The body of the next frame; None at the end."""
        header = self._pipe.read(HEADER.size)
        if len(header) < HEADER.size:
            self._check_end()
            return None
        mark, size = HEADER.unpack(header)
        if size > MAX_FRAME_BYTES:
            raise RefusedError(
                "too_large",
                f"One row of the Parquet file takes more than {MAX_FRAME_BYTES:,} bytes when decoded: write shorter "
                "texts or lists.",
            )
        body = self._pipe.read(size)
        if len(body) < size:
            self._check_end()
            return None
        if Kind(mark) is Kind.BROKEN:
            raise broken(body.decode())
        if Kind(mark) is not kind:
            raise RuntimeError(f"the Parquet decoder sent {mark!r} instead of {kind}")
        return body

    def _check_end(self) -> None:
        code = self._process.wait()
        if code in (OUT_OF_MEMORY, *_KILLED):
            raise OutOfMemory
        if code:
            raise RuntimeError(f"the Parquet decoder ended with exit code {code}")


def broken(what: str) -> RefusedError:
    """The refusal of a file that can't be decoded."""
    return RefusedError("unreadable_file", f"The Parquet file is broken ({what}): write it again and upload it.")
