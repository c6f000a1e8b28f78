"""Keys in the bucket: every key that this system reads or writes comes from here."""

from pathlib import PurePosixPath

from batch_pipeline.batches.ids import is_batch_id

INBOX = "uploads"
BATCHES = "batches"
REQUESTED = "requested"
SAMPLE = "samples/contacts.csv"  # of the Launchpad
OPTIONS_SUFFIX = ".options.json"
UNFINISHED_SUFFIXES = (".tmp", ".part")
MAX_EXTENSION_CHARACTERS = 16


def batch_folder(batch_id: str) -> str:
    """The folder of all files of a batch."""
    return f"{BATCHES}/{batch_id}"


def upload(batch_id: str, file_name: str, *, saved: bool) -> str:
    """The original upload: kept for download if `saved`, else a work file."""
    folder = batch_folder(batch_id) if saved else work_folder(batch_id)
    return f"{folder}/upload{extension(file_name)}"


def upload_copy(batch_id: str, copy_format: str, *, beside: str | None) -> str:
    """The copy of the upload as CSV or JSON; in a separate folder if the original has its key (`beside`)."""
    key = f"{batch_folder(batch_id)}/upload.{copy_format}"
    return key if key != beside else f"{batch_folder(batch_id)}/copies/upload.{copy_format}"


def requested(batch_id: str) -> str:
    """The key of a batch's upload URL."""
    return f"{REQUESTED}/{batch_id}/upload"


def batch_of_requested(key: str) -> str | None:
    """The batch id in a key of `requested`; None for any other key."""
    batch_id = key.removeprefix(f"{REQUESTED}/").removesuffix("/upload")
    return batch_id if is_batch_id(batch_id) and key == requested(batch_id) else None


def extension(file_name: str) -> str:
    """The extension in lower case (`.csv`, `.csv.gz`); '' if it has none of ASCII letters and digits."""
    kept: list[str] = []
    for suffix in reversed(PurePosixPath(file_name).suffixes):
        if not suffix[1:].isalnum() or not suffix.isascii() or len(suffix) > MAX_EXTENSION_CHARACTERS:
            break
        kept.insert(0, suffix.lower())
        if suffix.lower() not in (".gz", ".zst"):
            break
    return "".join(kept)


def errors_csv(batch_id: str) -> str:
    """Rejected items, as CSV."""
    return f"{batch_folder(batch_id)}/errors.csv"


def errors_json(batch_id: str) -> str:
    """Rejected items, as JSON."""
    return f"{batch_folder(batch_id)}/errors.json"


def result_json(batch_id: str) -> str:
    """Per-item outcomes."""
    return f"{batch_folder(batch_id)}/result.json"


def plan_csv(batch_id: str) -> str:
    """What the batch would do with each item, as CSV."""
    return f"{batch_folder(batch_id)}/plan.csv"


def plan_json(batch_id: str) -> str:
    """What the batch would do with each item, as JSON."""
    return f"{batch_folder(batch_id)}/plan.json"


def work_folder(batch_id: str) -> str:
    """The folder of files that phases pass to later phases."""
    return f"{batch_folder(batch_id)}/work"


def parsed_chunk(batch_id: str, number: int) -> str:
    """A parsed chunk, numbered from 1: items as uploaded."""
    return f"{work_folder(batch_id)}/parsed/{number:06}.parquet"


def equal_rows(batch_id: str) -> str:
    """Numbers of the rows to drop because another row has equal values in every field."""
    return f"{work_folder(batch_id)}/parsed/equal.parquet"


def is_batch_file(key: str) -> bool:
    """Whether an inbox key is a payload: not a sidecar, not hidden, not an unfinished file."""
    name = key.rsplit("/", 1)[-1]
    return bool(name) and not name.startswith(".") and not name.endswith((OPTIONS_SUFFIX, *UNFINISHED_SUFFIXES))
