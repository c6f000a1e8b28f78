"""Any sequence of batches of contacts and groups does to memberships what a small model in memory says.

The real phases run on the real PostgreSQL and S3, with chunks of two items and two writers.
"""

import dataclasses
from collections import Counter
from typing import Any

import pytest
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from members_model import CONTACTS, GROUPS, Expected, Item, MembersModel, Reference, Resource, Upload
from worlds import World, record_id

from batch_pipeline.batches.model import Action, Batch
from batch_pipeline.system import System

SEQUENCES = examples(5, thorough=500)
TABLES: dict[Resource, str] = {"contact": "contacts", "group": "groups"}


def references(keys: list[str], forms: list[str], strays: list[str]) -> st.SearchStrategy[list[Reference]]:
    there = st.builds(Reference, st.sampled_from(forms), st.sampled_from(keys))
    stray = st.builds(Reference, st.just("text"), st.sampled_from(strays))
    return st.lists(st.one_of(there, there, there, there, stray), max_size=3)


TO_GROUPS = references(list(GROUPS), ["external id", "external id", "id", "name"], ["nowhere", "g9"])
TO_CONTACTS = references(
    list(CONTACTS), ["external id", "external id", "id", "email", "qualified"], ["loc_1", "nobody@example.com"]
)
LOCATIONS = st.lists(st.builds(Reference, st.just("text"), st.sampled_from(["loc_1", "loc_2", "c0"])), max_size=2)
OPERATIONS = st.fixed_dictionaries({}, optional={"add": TO_GROUPS, "remove": TO_GROUPS, "set": TO_GROUPS})
CONTACT_ITEMS = st.builds(
    Item,
    st.sampled_from(list(CONTACTS)),
    st.fixed_dictionaries({}, optional={"groups": st.one_of(st.none(), TO_GROUPS, OPERATIONS)}),
)
OF_CONTACTS = st.fixed_dictionaries(
    {}, optional={"children": st.one_of(st.none(), TO_CONTACTS), "primary": st.one_of(st.none(), TO_CONTACTS)}
)
OF_LOCATIONS = st.fixed_dictionaries(
    {"resource": st.just("location")}, optional={"children": st.one_of(st.none(), LOCATIONS), "primary": LOCATIONS}
)
OF_EITHER = st.fixed_dictionaries(
    {"resource": st.sampled_from(["contact", "location", None])},
    optional={"children": st.one_of(TO_CONTACTS, LOCATIONS)},
)
GROUP_ITEMS = st.builds(
    Item, st.sampled_from(list(GROUPS)), st.one_of(OF_CONTACTS, OF_CONTACTS, OF_LOCATIONS, OF_EITHER)
)
UPLOADS = st.one_of(
    st.builds(
        Upload,
        st.just(resource),
        st.sampled_from(["merge", "merge", "merge", "overwrite", "delete"]),
        st.lists(items, min_size=1, max_size=4, unique_by=lambda item: item.key).map(tuple),
    )
    for resource, items in (("contact", CONTACT_ITEMS), ("group", GROUP_ITEMS))
)


@pytest.mark.timeout(3600)  # half an hour with the profile `thorough`
def test_any_sequence_of_batches_matches_the_model(module_system: System) -> None:
    small = module_system.settings.model_copy(update={"chunk_rows": 2, "database_writers": 2})
    system = dataclasses.replace(module_system, settings=small)

    @settings(max_examples=SEQUENCES, suppress_health_check=list(HealthCheck))
    @given(first=st.sets(st.sampled_from([*CONTACTS, *GROUPS])), uploads=st.lists(UPLOADS, min_size=2, max_size=3))
    def check(first: set[str], uploads: list[Upload]) -> None:
        world, model = begin(system, first)
        for upload in uploads:
            run(world, model, upload)

    check()


def begin(system: System, first: set[str]) -> tuple[World, MembersModel]:
    """An organization that has these records; contacts are members of all groups, the first of them primary."""
    world, model = World.new(system), MembersModel()
    for key in sorted(first):
        table = "contacts" if key in CONTACTS else "groups"
        world.insert(table, {"external_id": key, **(CONTACTS | GROUPS)[key]})
        model.ids[key] = record_id(table, key)
        if key in GROUPS:
            model.kinds[key] = "contact"
    for group in sorted(first & set(GROUPS)):
        for place, contact in enumerate(sorted(first & set(CONTACTS))):
            world.join(group, contact, primary=place == 0)
            model.members[group, contact] = place == 0
    return world, model


def run(world: World, model: MembersModel, upload: Upload) -> None:
    """Runs the batch for real and in the model, and compares all that there then is."""
    before = _records(world)
    items = [_given(model, upload, item) for item in upload.items]
    expected = model.run(upload)
    batch = world.run(upload.resource, *items, action=Action(upload.action), delete_limit="none", allow_empty=True)
    _check_batch(world, batch, expected)
    after = _records(world)
    model.ids |= {key: row["id"] for key, row in after.items() if key not in model.ids and not expected.fails}
    assert {key: row["id"] for key, row in after.items()} == model.ids
    assert {key: row["resource"] for key, row in after.items() if key in GROUPS} == model.kinds
    assert world.members() == model.members
    for key, row in after.items():
        if key in expected.written and not expected.fails:
            assert row["batch_id"] == batch.id
        else:
            assert row == before[key]


def _given(model: MembersModel, upload: Upload, item: Item) -> dict[str, Any]:
    """The item as it is uploaded."""
    if upload.action == "delete":
        return {"id": model.text(Reference("id", item.key))}

    def written(value: Any) -> Any:
        if isinstance(value, list):
            return [model.text(reference) for reference in value]
        return {name: written(listed) for name, listed in value.items()} if isinstance(value, dict) else value

    fixed = {name: value for name, value in (CONTACTS | GROUPS)[item.key].items() if value is not None}
    return {"external_id": item.key, **fixed, **{name: written(value) for name, value in item.said.items()}}


def _records(world: World) -> dict[str, dict[str, Any]]:
    return {row["external_id"]: row for table in TABLES.values() for row in world.rows(table)}


def _check_batch(world: World, batch: Batch, expected: Expected) -> None:
    found = {row: sorted(error["code"] for error in errors) for row, errors in world.errors(batch).items()}
    assert found == expected.errors
    if expected.fails:
        assert (batch.status, batch.reason and batch.reason.code) == ("failed", "no_valid_items")
        return
    assert batch.status == "completed", batch.reason
    assert world.outcomes(batch) == expected.outcomes
    counts = Counter(expected.outcomes.values())
    if "deleted" not in counts:
        counts["overwritten"] = len(expected.removed)
    assert {name: count for name, count in dataclasses.asdict(batch.stats).items() if count} == +counts
