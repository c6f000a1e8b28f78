"""Opening an upload for reading: the one way in, whatever its format.

Which formats there are is the business of `formats`, what is told of others that of `foreign`.
"""

from pathlib import Path

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.foreign import HEAD_BYTES, name_foreign
from batch_pipeline.payloads.formats import FORMATS, Upload
from batch_pipeline.payloads.model import Payload, ReadLimits

# Larger blocks were no faster; a block of very short rows takes many times its size while it is read.
BLOCK_BYTES = 1 << 20


def open_payload(path: Path, *, name: str, limits: ReadLimits, block_bytes: int = BLOCK_BYTES) -> Payload:
    """Recognises an upload's format, decides its encoding (one pass over the file) and reads its header.

    Args:
        path: a local copy of the upload, which must stay as it is until reading is done.
        name: the name that its sender gave it; it decides only where the content leaves the format open.
        limits: what the upload may hold.
        block_bytes: how much is read at once. It changes no result.

    Raises RefusedError: ``empty_file`` (no bytes, or only blanks), ``unsupported_format`` (naming what it
    looks like), ``unreadable_file`` (encoding, with the byte offset; no usable header; a single JSON object),
    ``duplicate_headers``, ``too_large`` (columns, or the header itself).
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise RefusedError("empty_file", "The file is empty (zero bytes): send one with a header or items.")
    if foreign := name_foreign(head):
        raise RefusedError(
            "unsupported_format",
            f"The file looks like {foreign}. CSV, a JSON array and NDJSON can be read.",
        )
    upload = Upload(path, name, head, limits, block_bytes)
    if not upload.first_character:
        raise RefusedError("empty_file", "The file holds only blanks: send one with a header or items.")
    readable = next(readable for readable in FORMATS if readable.recognises(upload))
    return readable.opens(upload)
