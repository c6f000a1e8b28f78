"""The URLs of a batch's files, signed for whoever may see the batch."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.service.context import Service
from batch_pipeline.storage import keys

# As the query parameters name them: include_… adds _…_url.
ARTIFACTS = ("upload_csv", "upload_json", "errors_csv", "errors_json", "result_json")


@dataclass(frozen=True)
class _File:
    key: str
    is_there: bool
    name: str


def download_urls(service: Service, batch: Batch, wanted: Iterable[str]) -> dict[str, str | None]:
    """For each wanted artifact its URL; None where the batch has no such file. Raises UnavailableError."""
    files = _files(batch)
    urls: dict[str, str | None] = {}
    for artifact in wanted:
        file = files[artifact]
        # The upload in another form than it came in may not be made yet.
        is_there = file.is_there and (not artifact.startswith("upload") or service.system.store.exists(file.key))
        seconds = service.system.settings.download_url_seconds
        urls[f"_{artifact}_url"] = (
            service.presigner.get_url(file.key, seconds=seconds, file_name=file.name) if is_there else None
        )
    return urls


def upload_url(service: Service, batch: Batch) -> dict[str, Any]:
    """Where the batch's file is to be sent, and until when; empty for a batch that awaits none (any more)."""
    if batch.upload_expires_at is None or batch.status != BatchStatus.requested or batch.arrival is not None:
        return {}
    expires_at = int(batch.upload_expires_at.timestamp())
    seconds = expires_at - int(time.time())
    if seconds <= 0:
        return {}
    return {
        "_upload_url": service.presigner.put_url(keys.requested(batch.id), seconds=seconds),
        "_upload_url_expires_at": expires_at,
    }


def _files(batch: Batch) -> dict[str, _File]:
    stem = batch.name.rsplit(".", 1)[0] or batch.id
    return {
        "upload_csv": _File(keys.upload_csv(batch.id), batch.has_upload_file, f"{stem}.csv"),
        "upload_json": _File(keys.upload_json(batch.id), batch.has_upload_file, f"{stem}.json"),
        "errors_csv": _File(keys.errors_csv(batch.id), batch.has_errors_file, f"{stem}-errors.csv"),
        "errors_json": _File(keys.errors_json(batch.id), batch.has_errors_file, f"{stem}-errors.json"),
        "result_json": _File(keys.result_json(batch.id), batch.has_result_file, f"{stem}-result.json"),
    }
