"""The first key that an item carries, valid or not, identifies its record."""

import pyarrow as pa
import pytest

from batch_pipeline.loading.identity import BY_EXTERNAL_ID, BY_ID, BY_NATURAL_KEY, deciding_keys
from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, RawChunk
from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import RowRules
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.fields import RuleContext

ID = "ctct_1111111111111111111111"
BY_EMAIL, BY_NAME_AND_PHONE = BY_NATURAL_KEY, BY_NATURAL_KEY + 1

CASES: list[tuple[dict[str, str], int | None]] = [
    ({"id": ID}, BY_ID),
    ({"id": ID, "external_id": "e", "email": "a@example.com", "name": "Ann"}, BY_ID),
    ({"external_id": "e"}, BY_EXTERNAL_ID),
    ({"external_id": "e", "email": "a@example.com", "name": "Ann"}, BY_EXTERNAL_ID),
    ({"email": "a@example.com"}, BY_EMAIL),
    ({"email": "a@example.com", "name": "Ann", "phone": "+14155550132"}, BY_EMAIL),
    ({"name": "Ann", "phone": "+14155550132"}, BY_NAME_AND_PHONE),
    ({"name": "Ann"}, BY_NAME_AND_PHONE),
    ({"phone": "+14155550132"}, BY_NAME_AND_PHONE),
    ({"notes": "x"}, BY_NAME_AND_PHONE),
    # A wrong value is carried all the same: it must not turn the item into another record.
    ({"id": "17", "external_id": "e", "email": "a@example.com"}, None),
    ({"external_id": "x" * 256, "email": "a@example.com"}, None),
    ({"email": "nobody", "name": "Ann", "phone": "+14155550132"}, None),
    ({"name": "x" * 256}, None),
    ({"name": "Ann", "phone": "12"}, None),
    # Other wrong values are no matter of identity.
    ({"id": ID, "email": "nobody", "name": "x" * 256, "phone": "12"}, BY_ID),
    ({"external_id": "e", "email": "nobody"}, BY_EXTERNAL_ID),
    ({"email": "a@example.com", "phone": "12"}, BY_EMAIL),
    ({"name": "Ann", "notes": "a\x07"}, BY_NAME_AND_PHONE),
    # Blank keys are not carried.
    ({"id": " ", "external_id": "", "email": "a@example.com"}, BY_EMAIL),
    ({"email": " ", "name": "Ann"}, BY_NAME_AND_PHONE),
]


def rules() -> RowRules:
    options = ReadingOptions(mapping={}, properties={}, blank_clears=False)
    return RowRules(CONTACT, options, RuleContext(region="US"))


def kinds_of(items: list[dict[str, str]]) -> list[int | None]:
    names = list(dict.fromkeys(name for item in items for name in item))
    chunk = RawChunk(
        pa.array(range(1, len(items) + 1), pa.int64()),
        {name: pa.array([item.get(name, "") for item in items], pa.string()) for name in names},
        {},
        UNREADABLE_SCHEMA.empty_table(),
    )
    row_rules = rules()
    kinds = deciding_keys(CONTACT, row_rules.check(chunk), row_rules).kinds
    assert kinds.type == pa.int16()
    result: list[int | None] = kinds.to_pylist()
    return result


@pytest.mark.parametrize(("item", "kind"), CASES, ids=lambda value: ",".join(value) if isinstance(value, dict) else "")
def test_the_first_key_that_an_item_carries_decides(item: dict[str, str], kind: int | None) -> None:
    assert kinds_of([item]) == [kind]


def test_each_item_of_a_chunk_has_its_own_deciding_key() -> None:
    assert kinds_of([item for item, _ in CASES]) == [kind for _, kind in CASES]


def test_no_items_have_no_deciding_keys() -> None:
    assert kinds_of([]) == []
