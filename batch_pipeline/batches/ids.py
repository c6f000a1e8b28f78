"""Ids: a prefix and 22 characters of base58 (Bitcoin's alphabet, which is in ASCII order).

The first nine characters are a time in microseconds. Ids therefore sort by creation time (under collation "C"), and
inserts stay at the right edge of the primary key's B-tree. There they cost a fraction of inserts at random positions.
"""

import re
import secrets
import time
from datetime import UTC, datetime, timedelta

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
LENGTH = 22
BATCH_PREFIX = "batch_"

TIME_CHARACTERS = 9  # 58**9 microseconds reach beyond the year 2200
_BATCH_ID = re.compile(f"{BATCH_PREFIX}[{ALPHABET}]{{{LENGTH}}}")


def new_batch_id() -> str:
    """A new batch id."""
    return new_id(BATCH_PREFIX)


def new_id(prefix: str) -> str:
    """A new id with the prefix: time-ordered, unguessable in its last 13 characters (76 bits)."""
    microseconds = time.time_ns() // 1000
    head = encode(microseconds, TIME_CHARACTERS)
    tail = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH - TIME_CHARACTERS))
    return f"{prefix}{head}{tail}"


def is_batch_id(text: str) -> bool:
    """Whether the text has the form of a batch id."""
    return _BATCH_ID.fullmatch(text) is not None


def made_at(batch_id: str) -> datetime:
    """The creation time that the batch id contains, UTC."""
    microseconds = decode(batch_id.removeprefix(BATCH_PREFIX)[:TIME_CHARACTERS])
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def encode(number: int, width: int) -> str:
    """The number's lowest `width` base58 digits, most significant first."""
    characters = []
    for _ in range(width):
        number, digit = divmod(number, 58)
        characters.append(ALPHABET[digit])
    return "".join(reversed(characters))


def decode(digits: str) -> int:
    """The number that these base58 digits write."""
    number = 0
    for character in digits:
        number = number * 58 + ALPHABET.index(character)
    return number
