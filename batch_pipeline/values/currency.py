"""Currencies: the current codes of ISO 4217, as pycountry lists them."""

from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pycountry


def canonical_currencies(texts: pa.StringArray) -> pa.StringArray:
    """Codes in lower case, given in upper or lower case; null where the text is null or not a code."""
    codes = pc.ascii_lower(texts)
    return pc.if_else(pc.is_in(codes, value_set=_codes()), codes, pa.scalar(None, pa.string()))


@lru_cache(maxsize=1)
def _codes() -> pa.StringArray:
    return pa.array(sorted(currency.alpha_3.lower() for currency in pycountry.currencies), pa.string())
