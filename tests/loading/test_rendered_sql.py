"""What writes to customers' records changes only on purpose: the statements are those in `tests/loading/sql`."""

import difflib

import pytest
from rendered_sql import COMMAND, FOLDER, actions_of, rendered

from batch_pipeline.batches.model import Action
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.resource import Resource

CASES = [
    pytest.param(resource, action, id=f"{resource.name}_{action.value}")
    for resource in all_resources()
    for action in actions_of(resource)
]


@pytest.mark.parametrize(("resource", "action"), CASES)
def test_the_rendered_statements_equal_the_stored_ones(resource: Resource, action: Action) -> None:
    path = FOLDER / f"{resource.name}_{action.value}.sql"
    stored = path.read_text(encoding="utf-8") if path.exists() else ""

    changes = difflib.unified_diff(
        stored.splitlines(), rendered(resource, action).splitlines(), "stored", "rendered", lineterm=""
    )

    text = "\n".join(changes)
    assert not text, f"{path.name} differs; if that is meant, run `{COMMAND}` and look at the change:\n{text}"


def test_no_file_remains_of_a_removed_resource_or_action() -> None:
    assert {path.stem for path in FOLDER.glob("*.sql")} == {case.id for case in CASES}
