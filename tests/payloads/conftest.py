"""Reading whole uploads in one call, for the tests of all formats."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from limits import default_limits

from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.model import CellKind, RawChunk
from batch_pipeline.payloads.reader import BLOCK_BYTES, open_payload


@dataclass
class Reading:
    """What an upload was read as: rows as dicts of the fields they carry, kinds where a chunk has them."""

    format: str
    columns: tuple[str, ...]
    is_errors_file: bool
    items: dict[int, dict[str, str]] = field(default_factory=dict)
    kinds: dict[int, dict[str, CellKind]] = field(default_factory=dict)
    raws: dict[int, str] = field(default_factory=dict)
    messages: dict[int, str] = field(default_factory=dict)
    chunks: list[RawChunk] = field(default_factory=list)

    def take(self, chunk: RawChunk) -> None:
        self.chunks.append(chunk)
        columns = {name: array.to_pylist() for name, array in chunk.columns.items()}
        kinds = {name: array.to_pylist() for name, array in chunk.kinds.items()}
        for index, row in enumerate(chunk.rows.to_pylist()):
            self.items[row] = {name: cells[index] for name, cells in columns.items() if cells[index] is not None}
            self.kinds[row] = {
                name: CellKind(values[index]) for name, values in kinds.items() if values[index] is not None
            }
        for bad in chunk.unreadable.to_pylist():
            self.raws[bad["row"]] = bad["raw"]
            self.messages[bad["row"]] = bad["message"]


ReadUpload = Callable[..., Reading]


@pytest.fixture(scope="session")
def upload_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `read_upload` puts its uploads, and what is made of them."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def read_upload(upload_folder: Path) -> ReadUpload:
    """Reads bytes as an upload of a name, with blocks of a size and changed limits."""
    path = upload_folder / "upload"

    def read(data: bytes | str, name: str = "upload", *, block_bytes: int = BLOCK_BYTES, **limits: int) -> Reading:
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        payload = open_payload(path, name=name, limits=default_limits(**limits), block_bytes=block_bytes)
        reading = Reading(payload.format, payload.columns, payload.is_errors_file)
        for chunk in payload.chunks():
            reading.take(chunk)
        return reading

    return read


@pytest.fixture(scope="session")
def refusal_of(read_upload: ReadUpload) -> Callable[..., RefusedError]:
    """The refusal of an upload that must be refused."""

    def refuse(data: bytes | str, name: str = "upload", **options: int) -> RefusedError:
        with pytest.raises(RefusedError) as caught:
            read_upload(data, name, **options)
        return caught.value

    return refuse
