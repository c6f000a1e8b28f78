"""Signed URLs of a batch's files."""

import time
from collections.abc import Iterable
from typing import Any

from batch_pipeline.batches.model import Batch
from batch_pipeline.batches.states import BatchStatus
from batch_pipeline.errors import NotFoundError
from batch_pipeline.phases.copies import CopyFormat, can_be_copied, find_copy
from batch_pipeline.service.context import Service
from batch_pipeline.storage import keys

ERRORS_URL_SECONDS = 60  # a browser follows the redirect at once

# As the query parameters name them: include_… adds _…_url.
ARTIFACTS = ("upload_csv", "upload_json", "errors_csv", "errors_json", "result_json", "plan_csv", "plan_json")


def download_urls(service: Service, batch: Batch, wanted: Iterable[str]) -> dict[str, str | None]:
    """The URL of each wanted artifact; None for a file that the batch does not have. Raises UnavailableError.

    The first request for a copy of a large upload starts to make its copies; their URLs are None until they exist.
    """
    urls: dict[str, str | None] = {}
    seconds = service.system.settings.download_url_seconds
    stem = batch.name.rsplit(".", 1)[0] or batch.id
    for artifact in wanted:
        key = _key(service, batch, artifact)
        what, extension = artifact.split("_")
        name = f"{stem}.{extension}" if what == "upload" else f"{stem}-{what}.{extension}"
        urls[f"_{artifact}_url"] = (
            None if key is None else service.presigner.get_url(key, seconds=seconds, file_name=name)
        )
    return urls


def errors_url(service: Service, batch: Batch) -> str:
    """A short-lived URL of the batch's rejected items as CSV. Raises NotFoundError (`no_errors_file`)."""
    key = _key(service, batch, "errors_csv")
    if key is None or batch.pruned_at is not None:
        raise NotFoundError(
            "no_errors_file", "The batch has no errors file: it rejected no item, or the file is deleted."
        )
    stem = batch.name.rsplit(".", 1)[0] or batch.id
    return service.presigner.get_url(key, seconds=ERRORS_URL_SECONDS, file_name=f"{stem}-errors.csv")


def upload_url(service: Service, batch: Batch) -> dict[str, Any]:
    """The URL that takes the batch's file, and its expiry; empty for a batch that awaits no file."""
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


def _key(service: Service, batch: Batch, artifact: str) -> str | None:
    """The artifact's key; None where there is none, or none yet."""
    if artifact in ("errors_csv", "errors_json"):
        key = keys.errors_csv(batch.id) if artifact == "errors_csv" else keys.errors_json(batch.id)
        return key if batch.has_errors_file else None
    if artifact in ("plan_csv", "plan_json"):
        key = keys.plan_csv(batch.id) if artifact == "plan_csv" else keys.plan_json(batch.id)
        return key if batch.plan is not None and batch.pruned_at is None else None
    if artifact == "result_json":
        return keys.result_json(batch.id) if batch.has_result_file else None
    found = find_copy(service.system, batch, CopyFormat(artifact.removeprefix("upload_")))
    if found is None and can_be_copied(batch):
        service.copier.make_copies(batch.id)
    return found
