"""The parsed chunks that a run's process keeps for its later phases, because storage takes longer."""

from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.settings import MIB

if TYPE_CHECKING:
    import pyarrow as pa

# As Arrow tables on disk: about 1,800,000 contacts. A larger batch keeps its first chunks only.
MOST_BYTES = 256 * MIB


class KeptChunks:
    """Chunks by their numbers. Any number of threads may read them.

    `folder`: on local disk, made when it is needed; the caller removes it. None: only `keep_only` keeps a chunk.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._free_bytes = MOST_BYTES
        self._paths: dict[int, Path] = {}
        self._only: pa.Table | None = None

    def keep_only(self, chunk: "pa.Table") -> None:
        """Keeps the only chunk of a small batch in memory."""
        self._only = chunk

    def keep(self, number: int, chunk: "pa.Table") -> None:
        """Keeps the chunk in a file, if there is room. For one thread at a time."""
        if self._folder is None or chunk.nbytes > self._free_bytes:
            return
        import pyarrow as pa

        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"chunk-{number}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, chunk.schema) as writer:
            writer.write_table(chunk)
        self._free_bytes -= chunk.nbytes
        self._paths[number] = path

    def get(self, number: int) -> "pa.Table | None":
        """The chunk with this number; None if it is not kept."""
        if self._only is not None:
            return self._only
        path = self._paths.get(number)
        if path is None:
            return None
        import pyarrow as pa

        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
