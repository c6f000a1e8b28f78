"""Ids of the records that a batch creates: computed from the batch and the row, so every attempt computes the same."""

from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batch_pipeline.batches.ids import ALPHABET, BATCH_PREFIX, LENGTH, TIME_CHARACTERS, decode, encode

_ROW_CHARACTERS = 6  # 58**6 rows, far above any limit on items


def record_ids(prefix: str, *, batch_id: str, arrived_at: datetime, rows: npt.NDArray[np.int64]) -> pa.StringArray:
    """Ids for the records that a batch creates, one per upload row, ascending with the row.

    An id depends only on the batch and the row, so an attempt after a crash computes the same ids. After the prefix
    come nine characters of the batch's arrival time, six of the row number, and seven of a generator seeded with the
    batch id. The last 13 characters of a batch id are random.
    """
    count = len(rows)
    out = np.empty((count, len(prefix) + LENGTH), dtype=np.uint8)
    out[:, : len(prefix)] = np.frombuffer(prefix.encode(), dtype=np.uint8)
    body = out[:, len(prefix) :]
    head = encode(int(arrived_at.timestamp() * 1_000_000), TIME_CHARACTERS)
    body[:, :TIME_CHARACTERS] = np.frombuffer(head.encode(), dtype=np.uint8)
    numbers = rows.astype(np.uint64)
    _encode_into(body[:, TIME_CHARACTERS : TIME_CHARACTERS + _ROW_CHARACTERS], numbers)
    _encode_into(body[:, TIME_CHARACTERS + _ROW_CHARACTERS :], _mix(numbers, _seed(batch_id)))
    offsets = np.arange(0, (count + 1) * out.shape[1], out.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(out))


def arrival_and_row(record_id: str, prefix: str) -> tuple[datetime, int] | None:
    """The arrival time and the row that `record_ids` put into an id; None if the text has not the form of these ids.

    Any text of that form has them, so compare the id with the one of the batch that arrived then.
    """
    body = record_id.removeprefix(prefix)
    if not record_id.startswith(prefix) or len(body) != LENGTH or not set(body) <= set(ALPHABET):
        return None
    microseconds = decode(body[:TIME_CHARACTERS])
    row = decode(body[TIME_CHARACTERS : TIME_CHARACTERS + _ROW_CHARACTERS])
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds), row


def _seed(batch_id: str) -> np.uint64:
    number = decode(batch_id.removeprefix(BATCH_PREFIX))
    return np.uint64((number ^ (number >> 64)) & 0xFFFF_FFFF_FFFF_FFFF)


def _mix(numbers: npt.NDArray[np.uint64], seed: np.uint64) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer: spreads consecutive rows over 64 bits (multiplication wraps on purpose)."""
    with np.errstate(over="ignore"):
        x = seed + numbers * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _encode_into(target: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint64]) -> None:
    """Writes each number's lowest base58 digits, most significant first, into the columns of `target`."""
    alphabet = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
    rest = numbers.copy()
    for column in range(target.shape[1] - 1, -1, -1):
        rest, digits = np.divmod(rest, np.uint64(58))
        target[:, column] = alphabet[digits]
