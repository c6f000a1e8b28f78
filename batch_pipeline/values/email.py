"""E-mail addresses: which are valid, and their canonical form.

The rule is `email_validator.validate_email` without DNS look-ups and with the library's other defaults:
local parts beyond ASCII (SMTPUTF8) are valid; quoted local parts, domain literals (``a@[192.0.2.1]``),
display names, domains without a dot and special-use domains (``.test``, ``.local``, …) are not.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

import email_validator
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from email_validator import validate_email
from email_validator.rfc_constants import EMAIL_MAX_LENGTH

from batch_pipeline.values.masks import CACHED_VALUES, Canonical, Mask, as_mask, decide_distinct, matches, replace

# A dot-atom of RFC 5322 3.2.3, then labels without two hyphens in a row (which leaves out Punycode and the
# R-LDH labels that the library refuses), then a top-level domain of letters only.
_LOCAL_PART = r"[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+(?:\.[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+)*"
_PLAIN_LOWER = rf"^{_LOCAL_PART}@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]+$"
_PLAIN = rf"^{_LOCAL_PART}@(?:[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*\.)+[a-zA-Z]+$"

# In an address this short no label can be longer than the 63 octets of RFC 1035, the domain not longer than 253
# and the address not longer than 254: no part needs a length check.
_PLAIN_MAX_BYTES = 64

# Local parts that the library accepts: a dot-atom that may have letters and digits of any script (RFC 6531).
_VALID_LOCAL_PART = re.compile(r"[\w!#$%&'*+\-/=?^`{|}~]+(?:\.[\w!#$%&'*+\-/=?^`{|}~]+)*")
_SHORTEST_DOMAIN = "a.b"


def canonical_emails(texts: pa.StringArray) -> Canonical:
    """Canonical addresses: the local part as given, the domain in lower case.

    An internationalised domain takes its Unicode form, whichever form it is given in, so that both are the
    same address. The canonical form of a canonical form is itself.
    """
    return Canonical(decide_distinct(texts, _accepts(texts, _PLAIN_LOWER), _decide))


def _accepts(texts: pa.StringArray, pattern: str) -> Mask:
    """The fast check: which texts are short, match one of the patterns above and have no special-use domain."""
    short = as_mask(pc.less_equal(pc.binary_length(texts), _PLAIN_MAX_BYTES))
    return short & matches(texts, pattern) & ~_special_use(texts)


def _special_use(texts: pa.StringArray) -> Mask:
    """Which addresses end in a domain that the library refuses, in upper or lower case.

    The library's list is read at each call: its documentation says to remove entries to allow them.
    """
    names = "|".join(name.replace(".", r"\.") for name in email_validator.SPECIAL_USE_DOMAIN_NAMES)
    return matches(texts, rf"(?i)[@.](?:{names})$") if names else np.zeros(len(texts), np.bool_)


def _decide(texts: pa.StringArray) -> pa.StringArray:
    """Canonical addresses of distinct values that the first pattern does not accept."""
    plain = _accepts(texts, _PLAIN)
    return decide_distinct(
        replace(texts, plain, _with_lower_domain(texts.filter(pa.array(plain)))), plain, _ask_library
    )


def _with_lower_domain(texts: pa.StringArray) -> pa.StringArray:
    """The addresses, each with exactly one @ and an ASCII domain, with that domain in lower case."""
    parts = pc.split_pattern(texts, "@").flatten()
    local_parts = parts.take(pa.array(np.arange(0, len(parts), 2)))
    domains = parts.take(pa.array(np.arange(1, len(parts), 2)))
    return pc.binary_join_element_wise(local_parts, pc.ascii_lower(domains), "@")


def _ask_library(texts: pa.StringArray) -> pa.StringArray:
    return pa.array([_canonical_email(text) for text in texts.to_pylist()], pa.string())


def _canonical_email(text: str) -> str | None:
    """The canonical address, or None for an invalid one.

    The library judges local part and domain separately, and then the length of the address in three forms: as
    given, canonical, and with the domain in its ASCII form. Many addresses share a domain, so it is asked once
    for each domain. Its own normalized form isn't used: it has some local parts in lower case (RFC 2142: Info,
    Sales, …).
    """
    # Long texts must not get into the caches: a cell can have a megabyte.
    if len(text.encode()) > EMAIL_MAX_LENGTH:
        return None
    # A valid address has one @ only: quoted local parts and display names are refused.
    local_part, at, given = text.rpartition("@")
    if not at:  # the whole text would be looked up as a domain
        return None
    domain = _domain(given)
    if domain is None or len(local_part.encode()) + 1 + domain.octets > EMAIL_MAX_LENGTH:
        return None
    if not _VALID_LOCAL_PART.fullmatch(local_part) and not _is_local_part(local_part):
        return None
    return f"{local_part}@{domain.canonical}"


@dataclass(frozen=True)
class _Domain:
    """A valid domain: its canonical form, and the octets of the longer of its Unicode and ASCII forms."""

    canonical: str
    octets: int


@lru_cache(maxsize=CACHED_VALUES)
def _domain(text: str) -> _Domain | None:
    try:
        address = validate_email(f"a@{text}", check_deliverability=False)
    except email_validator.EmailNotValidError:
        return None
    return _Domain(address.domain, max(len(address.domain.encode()), len(address.ascii_domain)))


@lru_cache(maxsize=CACHED_VALUES)
def _is_local_part(text: str) -> bool:
    try:
        validate_email(f"{text}@{_SHORTEST_DOMAIN}", check_deliverability=False)
    except email_validator.EmailNotValidError:
        return False
    return True
