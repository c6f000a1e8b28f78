"""The statements by which each action of each resource changes records, as PostgreSQL gets them.

`python tests/loading/rendered_sql.py` writes them to `tests/loading/sql`, one file for each resource and action.
They are rendered for an upload that has every field of the resource.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from psycopg import sql

from batch_pipeline.batches.model import Action
from batch_pipeline.loading.deleting import cleanup_statement, delete_statement, listed_ids, named_ids
from batch_pipeline.loading.identity import BY_EXTERNAL_ID, Matching
from batch_pipeline.loading.link_statements import CREATE_LINK_CHANGES, link_removals, link_statements
from batch_pipeline.loading.merging import insert_statement, update_statement
from batch_pipeline.loading.overwriting import to_delete_query
from batch_pipeline.loading.own_staging import OwnStaging
from batch_pipeline.loading.planner import matched_query
from batch_pipeline.loading.reference_fields import references_of
from batch_pipeline.loading.statements import Composer
from batch_pipeline.loading.undo_links import UndoLinks
from batch_pipeline.loading.undo_statements import UndoStatements
from batch_pipeline.loading.undo_writer import delete_created, restore_deleted, reverse_changed
from batch_pipeline.records.descriptions import all_resources
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.records.resource import Resource

if TYPE_CHECKING:
    from batch_pipeline.database import Connection

FOLDER = Path(__file__).parent / "sql"
COMMAND = "python tests/loading/rendered_sql.py"
STAGING = OwnStaging("batch_1")

Part = tuple[str, sql.Composed | None]


def rendered(resource: Resource, action: Action) -> str:
    """The action's statements in their order, each below a comment that says what it does."""
    parts = {
        Action.merge: merge_parts,
        Action.overwrite: overwrite_parts,
        Action.delete: delete_parts,
        Action.undo: undo_parts,
    }[action]
    statements = [
        f"-- {purpose}.\n{statement.as_string(None)};\n"
        for purpose, statement in parts(resource)
        if statement is not None
    ]
    return "\n".join([f"-- Made by `{COMMAND}`: change batch_pipeline/loading, not this file.\n", *statements])


def merge_parts(resource: Resource) -> Iterator[Part]:
    fields = tuple(field.name for field in resource.fields)
    matching = Matching(resource, STAGING, fields, clears=False)
    plan = matched_query(Composer(resource, STAGING), matching)
    yield "Plan: the record of each item, by the item's deciding key, and whether the item changes it", plan
    if resource.name == next(iter(RESOURCES)):  # the two forms differ by the same lines for each resource
        again = Matching(resource, STAGING, fields, clears=False, has_done=True)
        yield (
            "The same once a chunk is finished: its rows keep their verdicts",
            matched_query(Composer(resource, STAGING), again),
        )
        without = {"id", *(field.name for field in references_of(resource, fields))}
        fewer = tuple(name for name in fields if name not in without)
        by_external_id = Matching(resource, STAGING, fewer, clears=False, kinds=(BY_EXTERNAL_ID,))
        yield (
            "The same for a sparse plan, of items that their external ids decide about",
            matched_query(Composer(resource, STAGING), by_external_id, is_sparse=True),
        )
    yield "Chunk: create records", insert_statement(resource, STAGING, fields)
    valid = insert_statement(resource, STAGING, fields, creates_valid=True)
    yield "The same if each item that the row rules accept creates a record", valid
    if references_of(resource, fields):
        links = link_statements(resource, STAGING, fields, logs=True)
        yield "Once per connection: a table for the links that change", sql.SQL(CREATE_LINK_CHANGES).format()
        yield "Chunk: find the links that change", links.find
        yield "Chunk: lock the records of new links", links.lock_others
        yield "Chunk, if one of them is gone: leave its links out", links.leave_out
        for purpose, statement in zip(("remove", "mark", "add"), links.write, strict=True):
            yield f"Chunk: {purpose} links and log it", statement
    plain = update_statement(resource, STAGING, fields, clears=False, keep_changes=False, logs=False)
    yield "Chunk: update records that change", plain
    full = update_statement(resource, STAGING, fields, clears=True, keep_changes=True, logs=True)
    yield "The same with the change log, if some item clears a field and the batch has a result file", full


def overwrite_parts(resource: Resource) -> Iterator[Part]:
    fields = tuple(field.name for field in resource.fields)
    matching = Matching(resource, STAGING, fields, clears=False)
    to_delete = to_delete_query(Composer(resource, STAGING), matching, has_rejected=True, is_allowed=True)
    yield f"An overwrite writes items as {resource.name}_merge.sql does.\n-- Plan: list the other records", to_delete
    yield "Cleanup chunk: delete listed records and log it", cleanup_statement(resource, STAGING, logs=True)
    yield from removal_parts(resource, listed_ids(STAGING))


def delete_parts(resource: Resource) -> Iterator[Part]:
    yield "Chunk: delete records", delete_statement(resource, STAGING, keep_changes=False, logs=False)
    full = delete_statement(resource, STAGING, keep_changes=True, logs=True)
    yield "The same with the change log, if the batch has a result file", full
    yield from removal_parts(resource, named_ids(STAGING))


def removal_parts(resource: Resource, deleted: sql.Composed) -> Iterator[Part]:
    for has_links, removal in link_removals(resource, deleted, logs=True):
        yield "Then: whether the organization has any links", has_links
        yield "If so: remove those of the deleted records and log it", removal


def undo_parts(resource: Resource) -> Iterator[Part]:
    statements = UndoStatements(cast("Connection", None), resource, STAGING, {})  # composing needs no connection
    yield "Chunk: delete records that the undone batch created and log it", delete_created(statements)
    yield "Chunk: restore records that it deleted and log it", restore_deleted(statements)
    yield "Chunk: change fields back and log it", reverse_changed(statements)
    if statements.linked is not None:
        links = UndoLinks(statements)
        yield "Chunk: remove the links of deleted records and log it", links.removal
        for purpose, statement in zip(("remove", "mark", "add"), links.writing, strict=True):
            yield f"Chunk: {purpose} links and log it", statement


def actions_of(resource: Resource) -> list[Action]:
    """The actions that batches of the resource can have."""
    return sorted([*(Action(action.value) for action in RESOURCES[resource.name].actions), Action.undo])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.sql"):
        path.unlink()
    for resource in all_resources():
        for action in actions_of(resource):
            (FOLDER / f"{resource.name}_{action.value}.sql").write_text(rendered(resource, action), encoding="utf-8")


if __name__ == "__main__":
    main()
