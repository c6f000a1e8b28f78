"""E-mail addresses: which are valid, and their canonical form.

The rule is `email_validator.validate_email` without DNS look-ups and with the library's other defaults:
local parts beyond ASCII (SMTPUTF8) are valid; quoted local parts, domain literals (``a@[192.0.2.1]``),
display names, domains without a dot and special-use domains (``.test``, ``.local``, …) are not.
"""

from dataclasses import dataclass
from functools import lru_cache

import email_validator
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from email_validator import validate_email
from email_validator.rfc_constants import EMAIL_MAX_LENGTH

from batch_pipeline.values import email_international
from batch_pipeline.values.masks import (
    CACHED_VALUES,
    Canonical,
    Mask,
    as_mask,
    decide_distinct,
    matches,
    replace,
)

# A dot-atom of RFC 5322 3.2.3, then labels without two hyphens in a row (which leaves out Punycode and the
# R-LDH labels that the library refuses), then a top-level domain of letters only.
_LOCAL_PART = r"[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+(?:\.[a-zA-Z0-9_!#$%&'*+\-/=?^`{|}~]+)*"
_PLAIN_LOWER = rf"^{_LOCAL_PART}@(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]+$"
_VALID_LOCAL_PART = rf"^{email_international.LOCAL_PART}@[^@]+$"
_PLAIN = rf"^{_LOCAL_PART}@(?:[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*\.)+[a-zA-Z]+$"

# In an address this short no label can be longer than the 63 octets of RFC 1035, nor the domain than 253 or
# the address than 254: nothing needs to be counted apart.
_PLAIN_MAX_BYTES = 64

# The library refuses longer texts. They must not come into the cache: a cell can have a megabyte.
_MAX_CHARACTERS = EMAIL_MAX_LENGTH


def canonical_emails(texts: pa.StringArray) -> Canonical:
    """Canonical addresses: the local part as given, the domain in lower case.

    An internationalised domain takes its Unicode form, whichever form it is given in, so that both are the
    same address. The canonical form of a canonical form is itself.
    """
    return Canonical(decide_distinct(texts, _accepts(texts, _PLAIN_LOWER), _decide))


def _accepts(texts: pa.StringArray, pattern: str) -> Mask:
    """The fast check: which texts match one of the patterns above and nothing else speaks against."""
    short = as_mask(pc.less_equal(pc.binary_length(texts), _PLAIN_MAX_BYTES))
    return short & matches(texts, pattern) & ~_special_use(texts)


def _decide(texts: pa.StringArray) -> pa.StringArray:
    """Canonical addresses of values that are not plain and in lower case."""
    plain = _accepts(texts, _PLAIN)
    lowered = replace(texts, plain, _with_lower_domain(texts.filter(pa.array(plain))))
    international = email_international.accepts_international(texts) & ~_special_use(texts)
    return decide_distinct(lowered, plain | international, _decide_by_parts)


def _decide_by_parts(texts: pa.StringArray) -> pa.StringArray:
    """Canonical addresses of others: each distinct domain is decided once, where the local part is certainly valid.

    The library looks at local part and domain apart, and then at the length of the whole in three forms: as
    given, canonical, and with the domain in its ASCII form.
    """
    splits = as_mask(pc.less_equal(pc.binary_length(texts), EMAIL_MAX_LENGTH)) & matches(texts, _VALID_LOCAL_PART)
    local_parts, given = _parts(texts.filter(pa.array(splits)))
    domains = given.dictionary_encode()
    decided = [_domain(domain) for domain in domains.dictionary.to_pylist()]
    canonical = pa.array([domain and domain.canonical for domain in decided], pa.string()).take(domains.indices)
    octets = pa.array([domain and domain.octets for domain in decided], pa.int32()).take(domains.indices)
    lengths = pc.add(pc.add(pc.binary_length(local_parts), 1), octets)
    addresses = pc.binary_join_element_wise(local_parts, canonical, "@")
    addresses = pc.if_else(pc.less_equal(lengths, EMAIL_MAX_LENGTH), addresses, pa.scalar(None, pa.string()))
    return decide_distinct(replace(texts, splits, addresses), splits, _ask_library)


def _special_use(texts: pa.StringArray) -> Mask:
    """Which addresses end in a domain that the library refuses, in whatever case.

    The library's list is read at each call: taking entries off it is the documented way of allowing them.
    """
    names = "|".join(name.replace(".", r"\.") for name in email_validator.SPECIAL_USE_DOMAIN_NAMES)
    return matches(texts, rf"(?i)[@.](?:{names})$") if names else np.zeros(len(texts), np.bool_)


def _with_lower_domain(texts: pa.StringArray) -> pa.StringArray:
    """The addresses, each with exactly one @ and an ASCII domain, with that in lower case."""
    local_parts, domains = _parts(texts)
    return pc.binary_join_element_wise(local_parts, pc.ascii_lower(domains), "@")


def _parts(texts: pa.StringArray) -> tuple[pa.StringArray, pa.StringArray]:
    """Local parts and domains of texts with exactly one @ each."""
    parts = pc.split_pattern(texts, "@").flatten()
    return parts.take(pa.array(np.arange(0, len(parts), 2))), parts.take(pa.array(np.arange(1, len(parts), 2)))


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


def _ask_library(texts: pa.StringArray) -> pa.StringArray:
    return pa.array(
        [_canonical_email(text) if len(text) <= _MAX_CHARACTERS else None for text in texts.to_pylist()],
        pa.string(),
    )


@lru_cache(maxsize=CACHED_VALUES)
def _canonical_email(text: str) -> str | None:
    try:
        address = validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return None
    # The library's own normalized form would also lower some local parts (RFC 2142: Info, Sales, …). A valid
    # address has one @ only, as quoted local parts and display names are refused.
    return f"{text.partition('@')[0]}@{address.domain}"
