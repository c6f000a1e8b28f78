"""Finding and dropping equal rows: time and peak memory, of a file of equal rows beside one of distinct rows.

Neither storage nor the database is part of it: chunks are made in memory, go through `EqualItems`, and come again to
lose the rows that repeat another, as in parsing and validation. Making the chunks is not counted. Each case runs in a
process of its own; `start` is its peak before the first chunk. Usage: python benchmarks/equal_rows.py [--rows N …]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch_pipeline.payloads.equality import EqualItems, RowReader, without_rows, write_rows
from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, RawChunk
from batch_pipeline.settings import Settings

# How many rows in a row are equal, by the case's name; None: all.
CASES: dict[str, int | None] = {"distinct": 1, "pairs": 2, "equal": None}


def chunks(rows: int, equal: int | None) -> Iterator[RawChunk]:
    """Contacts in chunks of the usual size."""
    size = Settings().chunk_rows
    for start in range(0, rows, size):
        numbers = np.arange(start, min(start + size, rows), dtype=np.int64)
        people = (np.zeros(len(numbers), np.int64) if equal is None else numbers // equal).tolist()
        columns = {
            "external_id": [f"crm-{person:09}" for person in people],
            "name": [f"Ada Lovelace {person}" for person in people],
            "email": [f"ada{person}@example{person % 50}.com" for person in people],
            "notes": ["prefers mail" if person % 3 == 0 else "" for person in people],
        }
        texts = {name: pa.array(cells, pa.string()) for name, cells in columns.items()}
        yield RawChunk(pa.array(numbers + 1), texts, {}, UNREADABLE_SCHEMA.empty_table())


def peak_megabytes() -> int:
    """The process's own peak (Linux): getrusage's would include that of the process that it came from."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


def measure(rows: int, name: str) -> None:
    """Prints one line with the seconds of each part and the peak."""
    for _ in chunks(Settings().chunk_rows, CASES[name]):  # so that `start` has what one chunk takes
        pass
    start = peak_megabytes()
    finding = listing = dropping = 0.0
    kept = 0
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "rows"
        with closing(EqualItems(Path(folder), fields_vary=False, keep_last=False)) as equal_items:
            for chunk in chunks(rows, CASES[name]):
                began = time.perf_counter()
                equal_items.add(chunk)
                finding += time.perf_counter() - began
            began = time.perf_counter()
            dropped = write_rows(listed, equal_items.repeated_rows())
            listing = time.perf_counter() - began
        reader = RowReader(listed)
        for chunk in chunks(rows, CASES[name]):
            began = time.perf_counter()
            kept += len(without_rows(chunk, reader).rows)
            dropping += time.perf_counter() - began
        assert kept + dropped == rows
        print(
            f"{rows:,} rows, {name}: {dropped:,} dropped; found in {finding:.2f} s, listed in {listing:.2f} s "
            f"({listed.stat().st_size:,} bytes), dropped in {dropping:.2f} s; "
            f"peak {peak_megabytes()} MB, at the start {start} MB",
            flush=True,
        )


def main() -> None:
    """Measures each case in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--case", choices=list(CASES), help="measure this one, in this process")
    arguments = parser.parse_args()
    for rows in arguments.rows:
        if arguments.case:
            measure(rows, arguments.case)
            continue
        for name in CASES:
            subprocess.run([sys.executable, __file__, "--rows", str(rows), "--case", name], check=True)


if __name__ == "__main__":
    main()
