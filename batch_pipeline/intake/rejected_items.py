"""A new batch from the rejected items of another: `retry --failed-rows`."""

import csv
import json
import tempfile
from pathlib import Path

from batch_pipeline.batches.accept import ArrivedPayload, NewBatch, accept
from batch_pipeline.batches.ids import new_batch_id
from batch_pipeline.batches.model import Action, Batch, BlankCells, Starter
from batch_pipeline.batches.options import NAME_MAX, BatchOptions
from batch_pipeline.batches.states import FINAL
from batch_pipeline.errors import StateError
from batch_pipeline.loading.limits import REJECT_LIMIT_EXCEEDED
from batch_pipeline.payloads.formats import is_flat
from batch_pipeline.storage import keys
from batch_pipeline.system import System

_SUFFIX = " (rejected items)"


def create_from_rejected(
    system: System,
    batch_id: str,
    *,
    starter: Starter,
    claim_seconds: float | None = None,
    updated_by: str = "retry",
) -> Batch:
    """Creates a batch (`retry_of`) from the items that an ended batch rejected, as they were uploaded.

    Unreadable rows are left out, because they contain no item. The rejected items of an overwrite are not the complete
    set of records, so the new batch is a merge in which empty cells clear fields. The new batch has no reject limit:
    the original's limit applied to the whole upload. It does not stop to show its plan.

    `claim_seconds`: seconds that the caller has to launch the run before the sensor does. Raises NotFoundError, and
    StateError: `nothing_rejected` if there are no such items, `nothing_written` if the original failed because it
    rejected too many items, as the new batch would leave out its valid items.
    """
    original = system.ledger.get(batch_id)
    if original.status not in FINAL or not original.has_errors_file:
        raise StateError("nothing_rejected", f"Batch {batch_id} has no rejected items to retry.")
    if original.reason is not None and original.reason.code == REJECT_LIMIT_EXCEEDED:
        raise StateError(
            "nothing_written",
            f"Batch {batch_id} wrote none of its items, because it rejected too many: correct the upload and send it "
            "again, or retry the whole batch.",
        )
    options = BatchOptions.model_validate(original.options).model_copy(
        update={"reject_limit": "none", "plan_only": False, "column_mapping": original.column_mapping}
    )
    action = original.action
    if action is Action.overwrite:
        action = Action.merge
        options = options.model_copy(
            update={
                "blank_cells": options.blank_cells or BlankCells.clear,
                "delete_limit": None,
                "allow_empty": False,
            }
        )
    new_id = new_batch_id()
    write, file_name = (
        (_write_csv, "rejected.csv") if is_flat(original.facts.format) else (_write_json, "rejected.json")
    )
    target = keys.upload(new_id, file_name, saved=options.save_upload)
    with tempfile.TemporaryDirectory(prefix=f"{new_id}-") as folder:
        path = Path(folder) / file_name
        if write(system, original, path) == 0:
            raise StateError(
                "nothing_rejected",
                f"Batch {batch_id} rejected only rows that could not be read: correct the errors file and upload it.",
            )
        system.store.upload(path, target)
    new = NewBatch(
        id=new_id,
        organization_id=original.organization_id,
        resource=original.resource,
        action=action,
        name=original.name[: NAME_MAX - len(_SUFFIX)] + _SUFFIX,
        options=options,
        source_key=file_name,
        retry_of=batch_id,
        updated_by=updated_by,
    )
    payload = ArrivedPayload(target, options.save_upload, starter, claim_seconds=claim_seconds)
    return accept(system.engine, new, payload=payload).batch


def _write_csv(system: System, original: Batch, path: Path) -> int:
    """Copies errors.csv without its unreadable rows; returns the number of rows.

    The copy is an errors file too, so reading it removes the guards of cells that look like formulas.
    """
    source = path.with_suffix(".errors")
    system.store.download(keys.errors_csv(original.id), source)
    csv.field_size_limit(2 * system.settings.max_item_bytes)
    count = 0
    with source.open(encoding="utf-8", newline="") as errors, path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.reader(errors)
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        header = next(rows)
        codes = header.index("_codes")
        writer.writerow(header)
        for row in rows:
            if row[codes] != "unreadable_row":
                writer.writerow(row)
                count += 1
    return count


def _write_json(system: System, original: Batch, path: Path) -> int:
    """Copies the items' original JSON text from errors.json, so numbers keep their spelling; returns their number."""
    source = path.with_suffix(".errors")
    system.store.download(keys.errors_json(original.id), source)
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    marker = '"item":'
    count = 0
    with source.open(encoding="utf-8", newline="\n") as errors, path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for line in errors:
            start = line.find(marker)
            if start < 0:
                continue  # the array's brackets
            start += len(marker)
            item, end = decoder.raw_decode(line, start)
            if "_raw" in item and '"code":"unreadable_row"' in line[end:]:
                continue
            file.write(("," if count else "") + "\n" + line[start:end])
            count += 1
        file.write("\n]\n")
    return count
