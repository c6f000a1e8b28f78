"""Scalar fields: the type of the values that they read."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from batch_pipeline.records.cells import Cells
from batch_pipeline.records.fields import Choice, Email, RuleContext
from batch_pipeline.records.scalars import ScalarRules
from batch_pipeline.values.judged import Judged

TEXTS = pa.array(["ada@example.com", None])


@dataclass(frozen=True)
class MistypedChoice(Choice):
    """A field with rules, which accept its values, of another type than its own."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        return Judged(texts.cast(pa.large_string()), {})


@dataclass(frozen=True)
class MistypedEmail(Email):
    """A field without rules: pandera's frame has no column for it."""

    def read(self, texts: pa.StringArray, context: RuleContext) -> Judged:
        return Judged(texts.cast(pa.large_string()), {})


@pytest.mark.parametrize("field", [MistypedChoice("address", values=("ada@example.com",)), MistypedEmail("address")])
def test_a_field_that_reads_another_type_than_its_own_is_an_error_though_no_value_breaks_a_rule(
    field: Choice | Email,
) -> None:
    cells = {"address": Cells(TEXTS, pa.array([False, False]), None, TEXTS)}
    rules = ScalarRules({"address": field}, RuleContext("US"))
    with pytest.raises(TypeError, match="field address reads large_string, its type is string"):
        rules.read(cells, lambda *error: None)
