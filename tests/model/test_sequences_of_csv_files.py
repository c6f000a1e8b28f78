"""Any sequence of batches of CSV files, undos and kills does to contacts what the models say."""

import pytest
from sequences import hold_to_the_models

from batch_pipeline.system import System


@pytest.mark.timeout(3600)  # half an hour with the profile `thorough`
def test_any_sequence_of_csv_batches_matches_the_models(module_system: System) -> None:
    hold_to_the_models(module_system, "csv")
