"""E-mail addresses: which are valid, and their canonical form.

The rule is `email_validator.validate_email` without DNS look-ups and with the library's other defaults: local parts
beyond ASCII (SMTPUTF8) are valid; quoted local parts, domain literals (``a@[192.0.2.1]``), display names, domains
without a dot and special-use domains (``.test``, ``.local``, …) are not.
"""

from functools import lru_cache

import email_validator
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_pipeline.records.values.slow_path import (
    CACHED_VALUES,
    Canonical,
    Mask,
    as_mask,
    decide_distinct,
    matches,
)

# A dot-atom of RFC 5322 3.2.3, then labels without two hyphens in a row (which leaves out Punycode and the R-LDH
# labels that the library refuses), then a top-level domain of letters only.
_LOCAL_PART = r"[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+(?:\.[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+)*"
_PLAIN_LOWER = rf"^{_LOCAL_PART}@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]+$"
_PLAIN = rf"^{_LOCAL_PART}@(?:[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*\.)+[a-zA-Z]+$"

# Of an address this short no label can be longer than the 63 octets of RFC 1035, which therefore need no counting,
# let alone the 253 of a domain and the 254 of an address.
_PLAIN_MAX_BYTES = 64


def canonical_emails(texts: pa.StringArray) -> Canonical:
    """Canonical addresses: the local part as given, the domain in lower case.

    An internationalised domain takes its Unicode form, whichever form it is given in, so that both are one address.
    The canonical form of a canonical form is itself.
    """
    short = np.diff(_offsets(texts)) <= _PLAIN_MAX_BYTES
    accepted = short & matches(texts, _PLAIN_LOWER)
    accepted &= ~_special_use(texts)
    return Canonical(decide_distinct(texts, accepted, _decide))


def _decide(texts: pa.StringArray) -> pa.StringArray:
    """Canonical addresses of distinct values that the first check left."""
    short = np.diff(_offsets(texts)) <= _PLAIN_MAX_BYTES
    plain = short & matches(texts, _PLAIN) & ~_special_use(texts)
    mask = pa.array(plain)
    lowered = pc.replace_with_mask(texts, mask, _with_lower_domain(texts.filter(mask)))
    return decide_distinct(
        lowered,
        plain,
        lambda rest: pa.array([_canonical_email(text) for text in rest.to_pylist()], pa.string()),
    )


def _offsets(texts: pa.StringArray) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _special_use(texts: pa.StringArray) -> Mask:
    """Which addresses end in a domain that the library refuses, in whatever case.

    The library's list is read at each call: removing entries from it is the library's documented way of allowing them.
    """
    names = "|".join(name.replace(".", r"\.") for name in email_validator.SPECIAL_USE_DOMAIN_NAMES)
    return matches(texts, rf"(?i)[@.](?:{names})$") if names else np.zeros(len(texts), np.bool_)


def _with_lower_domain(texts: pa.StringArray) -> pa.StringArray:
    """The addresses, each with exactly one @ and an ASCII domain, with that in lower case."""
    parts = pc.split_pattern(texts, "@").flatten()
    local_parts = parts.take(pa.array(np.arange(0, len(parts), 2)))
    domains = parts.take(pa.array(np.arange(1, len(parts), 2)))
    return pc.binary_join_element_wise(local_parts, pc.ascii_lower(domains), "@")


@lru_cache(maxsize=CACHED_VALUES)
def _canonical_email(text: str) -> str | None:
    try:
        address = email_validator.validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return None
    # The library's own normalized form would also lower the local part of some mailboxes (RFC 2142: Info, Sales, …).
    # A valid address has one @ only, quoted local parts and display names being refused.
    return f"{text.partition('@')[0]}@{address.domain}"
