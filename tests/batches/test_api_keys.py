"""Keys of the API as the ledger finds them."""

import pytest

from batch_pipeline.batches.api_keys import find_key, find_key_and_batch
from batch_pipeline.database import create_engine
from batch_pipeline.errors import UnavailableError


def test_a_malformed_key_is_refused_without_the_database() -> None:
    engine = create_engine("postgresql://127.0.0.1:1/none")
    for key in ("", "nonsense", f"key_{'1' * 16}_{'1' * 42}", f"key_{'1' * 16}_{'1' * 43} "):
        assert find_key(engine, key) is None
        assert find_key_and_batch(engine, key, "batch_F2J5avxw6eLsV47F4V8WcG") is None
    with pytest.raises(UnavailableError):
        find_key(engine, f"key_{'1' * 16}_{'1' * 43}")
