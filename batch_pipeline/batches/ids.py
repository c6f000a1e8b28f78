"""Ids: a prefix and 22 characters of base58 (Bitcoin's alphabet, which is in ASCII order).

The first nine characters are a time in microseconds. Ids therefore sort by creation time (under collation "C"), and
inserts stay at the right edge of the primary key's B-tree. There they cost a fraction of inserts at random positions.
"""

import re
import secrets
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
LENGTH = 22
BATCH_PREFIX = "batch_"

_TIME_CHARACTERS = 9  # 58**9 microseconds reach beyond the year 2200
_ROW_CHARACTERS = 6  # 58**6 rows, far above any limit on items
_RANDOM_CHARACTERS = LENGTH - _TIME_CHARACTERS - _ROW_CHARACTERS
_BATCH_ID = re.compile(f"{BATCH_PREFIX}[{ALPHABET}]{{{LENGTH}}}")


def new_batch_id() -> str:
    """A new batch id: time-ordered, unguessable in its last 13 characters (76 bits)."""
    microseconds = time.time_ns() // 1000
    head = _encode_one(microseconds, _TIME_CHARACTERS)
    tail = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH - _TIME_CHARACTERS))
    return f"{BATCH_PREFIX}{head}{tail}"


def is_batch_id(text: str) -> bool:
    """Whether the text has the form of a batch id."""
    return _BATCH_ID.fullmatch(text) is not None


def made_at(batch_id: str) -> datetime:
    """The creation time that the batch id contains, UTC."""
    microseconds = 0
    for character in batch_id.removeprefix(BATCH_PREFIX)[:_TIME_CHARACTERS]:
        microseconds = microseconds * 58 + ALPHABET.index(character)
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


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
    head = _encode_one(int(arrived_at.timestamp() * 1_000_000), _TIME_CHARACTERS)
    body[:, :_TIME_CHARACTERS] = np.frombuffer(head.encode(), dtype=np.uint8)
    numbers = rows.astype(np.uint64)
    _encode_into(body[:, _TIME_CHARACTERS : _TIME_CHARACTERS + _ROW_CHARACTERS], numbers)
    _encode_into(body[:, _TIME_CHARACTERS + _ROW_CHARACTERS :], _mix(numbers, _seed(batch_id)))
    offsets = np.arange(0, (count + 1) * out.shape[1], out.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(out))


def _seed(batch_id: str) -> np.uint64:
    number = 0
    for character in batch_id.removeprefix(BATCH_PREFIX):
        number = number * 58 + ALPHABET.index(character)
    return np.uint64((number ^ (number >> 64)) & 0xFFFF_FFFF_FFFF_FFFF)


def _mix(numbers: npt.NDArray[np.uint64], seed: np.uint64) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer: spreads consecutive rows over 64 bits (multiplication wraps on purpose)."""
    with np.errstate(over="ignore"):
        x = seed + numbers * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _encode_one(number: int, width: int) -> str:
    characters = []
    for _ in range(width):
        number, digit = divmod(number, 58)
        characters.append(ALPHABET[digit])
    return "".join(reversed(characters))


def _encode_into(target: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint64]) -> None:
    """Writes each number's lowest base58 digits, most significant first, into the columns of `target`."""
    alphabet = np.frombuffer(ALPHABET.encode(), dtype=np.uint8)
    rest = numbers.copy()
    for column in range(target.shape[1] - 1, -1, -1):
        rest, digits = np.divmod(rest, np.uint64(58))
        target[:, column] = alphabet[digits]
