"""Any sequence of batches of JSON files does to contacts what the model says."""

import pytest
from sequences import hold_to_the_model

from batch_pipeline.system import System


@pytest.mark.timeout(1200)  # about half a minute on two idle cores, many times that on busy ones
def test_any_sequence_of_json_batches_matches_the_model(module_system: System) -> None:
    hold_to_the_model(module_system, "json", sequences=250)
