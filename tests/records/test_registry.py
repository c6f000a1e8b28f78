"""Invalid descriptions of resources are refused before any batch uses them."""

import pytest
from record_samples import csv_chunk, rules_of

from batch_pipeline.records.fields import Text
from batch_pipeline.records.resource import NaturalKey, Resource

COMMON_FIELDS = 3  # id, external_id, metadata
BITS = 62  # of a bigint: the sign's and the one for errors of no one field are not for fields


def crate(*, fields: int) -> Resource:
    return Resource(
        name="crate",
        id_prefix="crate_",
        own_fields=tuple(Text(f"field_{number}", max_length=3) for number in range(fields - COMMON_FIELDS)),
        natural_keys=(NaturalKey(("field_0",)),),
    )


def test_a_resource_with_more_fields_than_the_masks_have_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="crate has 63 fields, and the masks of staged items have bits for 62"):
        crate(fields=BITS + 1)


def test_every_field_of_the_largest_resource_has_its_own_bit() -> None:
    resource = crate(fields=BITS)
    last = resource.own_fields[-1].name
    rules = rules_of(resource)

    checked = rules.check(csv_chunk({"field_0": ["ok", "long", "ok"], last: ["ok", "ok", "long"]}))

    assert checked.invalid.tolist() == [0, 1 << rules.bits["field_0"], 1 << rules.bits[last]]
    assert len(set(rules.bits.values())) == BITS
