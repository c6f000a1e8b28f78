"""Parquet bombs: what a few kilobytes decode to is refused or read in limited memory, by the limit's name."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from limits import default_limits
from parquet_parts import (
    COLUMN_ENCODINGS,
    FILE_GROUPS,
    FILE_SCHEMA,
    GROUP_COLUMNS,
    column_of,
    group_of,
    one_page,
    with_footer,
)
from process_table import command_of
from thrift_compact import ThriftList, ThriftStruct

from batch_pipeline.payloads.reader import open_payload

# What a run may take. The process that reads and the one that decodes are counted together, at the peak of each.
MAX_MB = 800
NO_RATIO = {"max_decompression_ratio": 10**9}

READ_ALL = """
import json, resource, sys
from pathlib import Path
from batch_pipeline.errors import RefusedError
from batch_pipeline.payloads.reader import open_payload
from limits import default_limits

def peak_mb():
    status = Path("/proc/self/status").read_text()
    decoder = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (int(status.split("VmHWM:")[1].split()[0]) + decoder) // 1024

def read(path, limits):
    rows = 0
    try:
        for chunk in open_payload(Path(path), name="x.parquet", limits=default_limits(**limits)).chunks():
            numbers = chunk.columns["n"].cast("int64").to_numpy()
            assert (chunk.rows.to_numpy() - 1 == numbers).all()
            rows += len(chunk.rows) + chunk.unreadable.num_rows
    except RefusedError as refusal:
        return {"code": refusal.code, "message": refusal.message, "rows": rows}
    return {"code": None, "message": "", "rows": rows}

uploads = json.load(sys.stdin)
for path, limits in uploads:
    print(json.dumps(read(path, limits) | {"peak": peak_mb()}), flush=True)
"""


def repeated(count: int, text: str) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), [text])


def one_list(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays([0, len(values)], values)


def zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, np.int8))


PLAIN: dict[str, Any] = {"use_dictionary": False, "write_statistics": False}
DELTA: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}}
Bomb = tuple[Callable[[], pa.Array], dict[str, Any], dict[str, int], str]

BOMBS: dict[str, Bomb] = {
    "one text": (lambda: pa.array(["x" * (90 << 20)]), PLAIN, {}, "when decoded"),
    "one larger text": (lambda: pa.array(["x" * (160 << 20)]), PLAIN, {}, "bytes of memory"),
    "one list": (lambda: one_list(zeros(30_000_000)), {}, {}, "bytes of memory"),
    "one list of nulls": (lambda: one_list(pa.nulls(50_000_000)), {}, NO_RATIO, "bytes of memory"),
    "one list of texts": (lambda: one_list(repeated(1_000_000, "x" * 10_000)), {}, {}, "bytes of memory"),
    "a repeated text": (lambda: repeated(20_000, "x" * (1 << 20)), {}, {}, "BATCH_MAX_DECOMPRESSION_RATIO"),
    "a common prefix": (
        lambda: pa.array(["x" * 100_000 + str(number) for number in range(1000)]),
        DELTA | {"data_page_size": 1 << 30},
        {},
        "BATCH_MAX_DECOMPRESSION_RATIO",
    ),
    "too much": (
        lambda: repeated(1_000_000, "x" * 100),
        {},
        {"max_decompressed_bytes": 50 << 20},
        "BATCH_MAX_DECOMPRESSED_BYTES",
    ),
}
# Read whole: what they decode to is bounded at any time, though not in all.
READABLE: dict[str, tuple[Callable[[], pa.Array], dict[str, Any]]] = {
    "a common prefix": (
        lambda: pa.array(["x" * 100_000 + str(number) for number in range(1000)]),
        DELTA | {"data_page_size": 1 << 30},
    ),
    "a text repeated after short ones": (
        lambda: pa.DictionaryArray.from_arrays(
            pa.array([0] * 10_000 + [1] * 500 + [0] * 10_000, pa.int32()), ["x", "y" * 1_000_000]
        ),
        {"dictionary_pagesize_limit": 4 << 20},
    ),
    "one list of lists": (
        lambda: one_list(pa.ListArray.from_arrays(np.arange(0, 3_000_001, 3), zeros(3_000_000))),
        {},
    ),
    "lists": (
        lambda: pa.ListArray.from_arrays(
            np.arange(0, 2_000_001, 20), pa.array(["person@example.com"]).take(pa.array(np.zeros(2_000_000, np.int32)))
        ),
        PLAIN,
    ),
}

# Lists in a footer of some 300 bytes that state more values than there are.
MILLION, TWO_BILLION = 999_999, 2**31 - 1
FALSE_LISTS: dict[str, tuple[Callable[[ThriftStruct], ThriftList], int]] = {
    "a million columns in the schema": (lambda footer: footer[FILE_SCHEMA], MILLION),
    "a million row groups": (lambda footer: footer[FILE_GROUPS], MILLION),
    "a million columns in a row group": (lambda footer: group_of(footer)[GROUP_COLUMNS], MILLION),
    "two billion columns in a row group": (lambda footer: group_of(footer)[GROUP_COLUMNS], TWO_BILLION),
    "a million encodings": (lambda footer: column_of(footer)[COLUMN_ENCODINGS], MILLION),
}


def with_false_list(list_of: Callable[[ThriftStruct], ThriftList], stated: int) -> bytes:
    def change(footer: ThriftStruct) -> None:
        list_of(footer).stated = stated

    return with_footer(one_page(["a"]), change)


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process says of each upload."""
    folder = tmp_path_factory.mktemp("bombs")
    uploads: list[tuple[str, dict[str, int]]] = []
    names = []
    stored_rows: list[int] = []
    wanted = [(name, make, options, limits) for name, (make, options, limits, _) in BOMBS.items()]
    wanted += [(f"{name}, read", make, options, NO_RATIO) for name, (make, options) in READABLE.items()]
    for number, (name, make, options, limits) in enumerate(wanted):
        path = folder / str(number)
        values = make()
        pq.write_table(pa.table({"n": range(len(values)), "a": values}), path, compression="zstd", **options)
        uploads.append((str(path), limits))
        names.append(name)
        stored_rows.append(len(values))
    for name, (list_of, stated) in FALSE_LISTS.items():
        path = folder / str(len(names))
        path.write_bytes(with_false_list(list_of, stated))
        uploads.append((str(path), {}))
        names.append(name)
        stored_rows.append(1)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL],
        input=json.dumps(uploads),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = zip(map(json.loads, done.stdout.splitlines()), stored_rows, strict=True)
    return dict(zip(names, (reading | {"stored_rows": rows} for reading, rows in found), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_the_name_of_the_limit_in_little_memory(readings, name):
    reading = readings[name]
    assert (reading["code"], BOMBS[name][3] in reading["message"]) == ("too_large", True), reading
    assert reading["peak"] < MAX_MB


@pytest.mark.parametrize("name", READABLE)
def test_large_values_are_read_in_little_memory(readings, name):
    reading = readings[f"{name}, read"]
    assert (reading["code"], reading["rows"]) == (None, reading["stored_rows"])
    assert reading["peak"] < MAX_MB


@pytest.mark.parametrize("name", FALSE_LISTS)
def test_a_footer_with_lists_that_are_not_there_is_refused_in_little_memory(readings, name):
    reading = readings[name]
    assert (reading["code"], "footer" in reading["message"] or "broken" in reading["message"]) in (
        ("too_large", True),
        ("unreadable_file", True),
    )
    assert reading["peak"] < MAX_MB


def decoders_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "parquet_decoder" in command_of(child)]


@pytest.fixture(scope="module")
def long_upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "upload"
    pq.write_table(pa.table({"a": [f"person {number}" for number in range(1_000_000)]}), path)
    return path


def test_the_decoder_ends_when_reading_is_stopped(long_upload):
    chunks = open_payload(long_upload, name="x", limits=default_limits(chunk_rows=1000)).chunks()
    next(chunks)
    (decoder,) = decoders_of(os.getpid())
    del chunks
    assert not decoder.is_running()


def test_the_decoder_of_an_upload_that_is_not_read_ends_with_it(long_upload):
    payload = open_payload(long_upload, name="x", limits=default_limits())
    (decoder,) = decoders_of(os.getpid())
    del payload
    assert not decoder.is_running()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_the_decoder_ends_with_the_process_that_reads(long_upload, stop):
    """Ctrl-C reaches all processes of the terminal's group; the decoder is in none, and the reader ends it."""
    code = (
        "import sys; from pathlib import Path; from limits import default_limits\n"
        "from batch_pipeline.payloads.reader import open_payload\n"
        "chunks = open_payload(Path(sys.argv[1]), name='x', limits=default_limits(chunk_rows=1000)).chunks()\n"
        "next(chunks); print('reading', flush=True)\n"
        "while True: next(chunks, None) or sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(long_upload)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent,
        start_new_session=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.readline()
        (decoder,) = decoders_of(reader.pid)
        os.killpg(reader.pid, stop)
        last_line = reader.stderr.read().decode().strip().rpartition("\n")[2]
        assert reader.wait(timeout=60) == -stop
        assert last_line == ("KeyboardInterrupt" if stop == signal.SIGINT else "")
        decoder.wait(timeout=60)


def test_a_footer_that_nests_deeply_is_refused(refusal_of):
    column = pa.array([None], pa.null())
    for _ in range(150):
        column = one_list(column)
    file = io.BytesIO()
    pq.write_table(pa.table({"a": column}), file, store_schema=False)
    assert refusal_of(file.getvalue()).code in ("too_large", "unreadable_file")
