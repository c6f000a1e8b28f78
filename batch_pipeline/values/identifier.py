"""The format of identifiers: ids of records, and ids of things that other systems keep."""

import re

import pyarrow as pa
import pyarrow.compute as pc

# Bitcoin's base58: digits and letters without 0, O, I and l, which readers confuse.
BASE58_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
RECORD_ID_CHARACTERS = 22
REFERENCE_ID_MAX_CHARACTERS = 64


def are_record_ids(texts: pa.StringArray, prefix: str) -> pa.BooleanArray:
    """Which texts are ``prefix`` (``ctct_``, …) and 22 base58 characters; null for null."""
    pattern = f"^{re.escape(prefix)}[{BASE58_ALPHABET}]{{{RECORD_ID_CHARACTERS}}}$"
    return pc.match_substring_regex(texts, pattern=pattern)


def are_reference_ids(texts: pa.StringArray, prefix: str) -> pa.BooleanArray:
    """Which texts are ``prefix`` (``loc_``, …) and 1 to 64 ASCII letters, digits, - or _; null for null."""
    pattern = f"^{re.escape(prefix)}[A-Za-z0-9_-]{{1,{REFERENCE_ID_MAX_CHARACTERS}}}$"
    return pc.match_substring_regex(texts, pattern=pattern)
