"""Booleans as people write them: true/false, yes/no, 1/0, in any case."""

import pyarrow as pa
import pyarrow.compute as pc

_WORDS = pa.array(["true", "yes", "1", "false", "no", "0"])
_MEANINGS = pa.array([True, True, True, False, False, False])


def canonical_booleans(texts: pa.StringArray) -> pa.BooleanArray:
    """The boolean of each text; null where the text is null or not a boolean."""
    return _MEANINGS.take(pc.index_in(pc.ascii_lower(texts), value_set=_WORDS, skip_nulls=True))
