"""Peak memory of reading an upload, by format and size: it must not grow with the file.

Each file is generated, read to its end in a process of its own, and removed. `start` is the same process's peak before
it reads. Usage: python benchmarks/memory_by_format.py [--megabytes 25 100 400] [--formats csv json …] [--folder DIR]
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_AT_ONCE = 20_000
COLUMNS = ("external_id", "name", "email", "phone", "address", "id_number", "notes", "metadata.segment")

# The peak is that of the process's own memory (Linux): getrusage's would include that of the process it came from.
READER = """
import sys
from pathlib import Path
from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.payloads.reader import open_payload
from batch_pipeline.settings import Settings
import pyarrow.compute, pyarrow.csv, pyarrow.parquet, openpyxl
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024
start = peak()
path = Path(sys.argv[1])
payload = open_payload(path, name=path.name, limits=ReadLimits.from_settings(Settings()))
rows = sum(len(chunk.rows) for chunk in payload.chunks())
print(rows, start, peak())
"""


def rows_of(megabytes: int) -> Iterator[list[tuple[str, ...]]]:
    """Rows whose text is about so large, in lists."""
    size = number = 0
    while size < megabytes << 20:
        rows = []
        for _ in range(ROWS_AT_ONCE):
            row = (
                f"crm-{number:09}",
                f"Ada Lovelace {number}",
                f"ada{number}@example{number % 50}.com",
                f"+1415555{number % 10_000:04}",
                f"{number % 9_999} Oak Street",
                f"{number * 7919 % 10**9:09}",
                "prefers mail" if number % 3 else "",
                "gold",
            )
            size += sum(map(len, row)) + len(row)
            number += 1
            rows.append(row)
        yield rows


def _csv_text(rows: list[tuple[str, ...]]) -> str:
    return "".join(",".join(row) + "\r\n" for row in rows)


def _json_lines(rows: list[tuple[str, ...]]) -> list[str]:
    return [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows]


def write_csv(path: Path, megabytes: int, *, compressed: bool = False) -> None:
    """CSV, perhaps in gzip."""
    with gzip.open(path, "wt", 1) if compressed else path.open("w") as file:
        file.write(",".join(COLUMNS) + "\r\n")
        for rows in rows_of(megabytes):
            file.write(_csv_text(rows))


def write_json(path: Path, megabytes: int) -> None:
    """One JSON array; the names of fields make it larger than the rows' text, so there are fewer rows."""
    with path.open("w") as file:
        file.write("[")
        separator = "\n"
        for rows in rows_of(megabytes):
            file.write(separator + ",\n".join(_json_lines(rows)))
            separator = ",\n"
            if file.tell() >= megabytes << 20:
                break
        file.write("\n]\n")


def write_ndjson(path: Path, megabytes: int) -> None:
    """One object a line."""
    with path.open("w") as file:
        for rows in rows_of(megabytes):
            file.write("\n".join(_json_lines(rows)) + "\n")
            if file.tell() >= megabytes << 20:
                break


def write_parquet(path: Path, megabytes: int) -> None:
    """Parquet as pyarrow writes it, in row groups of a million rows at most."""
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema) as writer:
        tables: list[pa.Table] = []
        for rows in rows_of(megabytes):
            tables.append(pa.Table.from_arrays([pa.array(column) for column in zip(*rows, strict=True)], schema=schema))
            if len(tables) * ROWS_AT_ONCE >= 1_000_000:
                writer.write_table(pa.concat_tables(tables))
                tables.clear()
        if tables:
            writer.write_table(pa.concat_tables(tables))


def write_xlsx(path: Path, megabytes: int) -> None:
    """A workbook with shared strings, as Excel writes them."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from workbooks import by_hand

    with tempfile.TemporaryFile() as file:
        file.write(by_hand("", strings=""))
        with zipfile.ZipFile(file) as small, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as big:
            for name in small.namelist():
                if name not in ("xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"):
                    big.writestr(name, small.read(name))
            with big.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
                sheet.write(b"<worksheet><sheetData>")
                number = 0
                for rows in ([COLUMNS], *rows_of(megabytes)):
                    for row in rows:
                        cells = "".join(f'<c t="s"><v>{number + place}</v></c>' for place in range(len(row)))
                        sheet.write(f"<row>{cells}</row>".encode())
                        number += len(row)
                sheet.write(b"</sheetData></worksheet>")
            with big.open("xl/sharedStrings.xml", "w", force_zip64=True) as strings:
                strings.write(b"<sst>")
                for rows in ([COLUMNS], *rows_of(megabytes)):
                    strings.write("".join(f"<si><t>{text}</t></si>" for row in rows for text in row).encode())
                strings.write(b"</sst>")


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "csv": write_csv,
    "csv.gz": lambda path, megabytes: write_csv(path, megabytes, compressed=True),
    "json": write_json,
    "ndjson": write_ndjson,
    "parquet": write_parquet,
    "xlsx": write_xlsx,
}


def main() -> None:
    """Prints one line for each format and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[25, 100, 400])
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--folder", help="where the files are put; default: for temporary files")
    arguments = parser.parse_args()
    for name in arguments.formats:
        for megabytes in arguments.megabytes:
            with tempfile.TemporaryDirectory(prefix="batch-bench-", dir=arguments.folder) as folder:
                path = Path(folder) / f"upload.{name}"
                WRITERS[name](path, megabytes)
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", READER, str(path)], check=True, text=True, stdout=subprocess.PIPE
                )
                rows, start, peak = map(int, done.stdout.split())
                print(
                    f"{name:8} {megabytes:5} MB of text, {path.stat().st_size / 1e6:7.1f} MB of file, {rows:10,} rows: "
                    f"start {start} MB, peak {peak} MB, {time.perf_counter() - began:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
