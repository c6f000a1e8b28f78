"""What the tests of webhooks and alerts share."""

from collections.abc import Iterator

import pytest

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.database import create_engine


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """The ledger of a database of the test's own."""
    engine = create_engine(database_url)
    yield Ledger(engine)
    engine.dispose()
