"""Opening an upload for reading: the one way in, whatever its format.

`formats` registers the formats that are read, `unsupported` names others.
"""

from collections.abc import Callable
from pathlib import Path

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.compression import compression_of, decompress, inner_name
from batch_pipeline.payloads.formats import BINARY_FORMATS, FORMATS, TEXT_FORMATS, Upload
from batch_pipeline.payloads.model import Payload, ReadLimits
from batch_pipeline.payloads.unsupported import HEAD_BYTES, unsupported_format

# Larger blocks were no faster; a block of very short rows takes many times its size while it is read.
BLOCK_BYTES = 1 << 20
PLAIN_SUFFIX = ".plain"


def open_payload(
    path: Path,
    *,
    name: str,
    limits: ReadLimits,
    block_bytes: int = BLOCK_BYTES,
    check: Callable[[], None] = lambda: None,
) -> Payload:
    """Recognises an upload's format, decides its encoding (one pass over the file) and reads its header.

    What a compressed upload holds is first written beside it, to a file of the same name and `PLAIN_SUFFIX`; so are the
    texts of a workbook.

    Args:
        path: a local copy of the upload, which must stay as it is until reading is done.
        name: the name that its sender gave it; it decides only where the content leaves the format open.
        limits: what the upload may hold.
        block_bytes: how much is read at once. It changes no result.
        check: called often in long work before the first row; may raise to stop.

    Raises RefusedError: ``empty_file`` (no bytes, or only blanks), ``unsupported_format`` (naming what it
    looks like), ``unreadable_file`` (encoding, with the byte offset; a broken file; no usable header; a
    single JSON object), ``duplicate_headers``, ``too_large`` (columns, the header itself, size once decompressed).
    """
    head, stored_bytes = _head(path), path.stat().st_size
    compression = compression_of(head)
    if compression is not None:
        plain = path.with_name(path.name + PLAIN_SUFFIX)
        decompress(path, plain, compression, limits, check=check)
        path, name, head = plain, inner_name(name), _head(plain)
        if inner := compression_of(head):
            raise RefusedError(
                "unsupported_format",
                f"The {compression} file holds a {inner} file: compress an upload once only.",
            )
    if not head:
        raise RefusedError("empty_file", "The file is empty (zero bytes): send one with a header or items.")
    upload = Upload(
        path=path,
        name=name,
        head=head,
        limits=limits,
        block_bytes=block_bytes,
        stored_bytes=stored_bytes,
        was_compressed=compression is not None,
        check=check,
    )
    readable = next((readable for readable in BINARY_FORMATS if readable.recognises(upload)), None)
    if readable is None:
        if found := unsupported_format(path, head):
            raise RefusedError(
                "unsupported_format",
                f"The file looks like {found}. What can be read: {', '.join(FORMATS).upper()}; all but XLSX also "
                "compressed by gzip or zstd.",
            )
        readable = next(readable for readable in TEXT_FORMATS if readable.recognises(upload))
    payload = readable.opens(upload)
    payload.was_compressed = upload.was_compressed
    return payload


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
