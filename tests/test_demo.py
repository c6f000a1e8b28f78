"""The demonstration shows the expected numbers and leaves no process running."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from batch_pipeline.batches.model import Action
from batch_pipeline.local.samples import load_samples
from batch_pipeline.records.registry import RESOURCES

PROGRAM = Path(sys.executable).with_name("batch-pipeline")
# The demonstration itself gives up, saying where it stands, when nothing gets on; this is for one that can't.
PATIENCE_SECONDS = 1200
DATA_DIR = "demo"  # of both demonstrations: each has organizations of its own


def start(data_dir: Path) -> "subprocess.Popen[str]":
    # A configured deployment must not be touched.
    elsewhere = {"BATCH_DATABASE_URL": "postgresql://127.0.0.1:1/none", "BATCH_STORAGE_URL": "s3://none"}
    return subprocess.Popen(
        [PROGRAM, "demo", "--rows", "1000", "--data-dir", str(data_dir)],
        # Without the width of whoever runs the tests, who may not even have a terminal.
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | elsewhere,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have Ctrl-C ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads
    )


def left_running(data_dir: Path) -> list[str]:
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(data_dir) in command]


@pytest.mark.timeout(PATIENCE_SECONDS + 30)
def test_every_number_of_the_demonstration_is_as_expected(session_folder: Path) -> None:
    data_dir = session_folder / DATA_DIR
    with start(data_dir) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 0, err
    assert "Every number is as expected" in out
    for sample in load_samples(1000):
        assert sample.title in out
        assert set(sample.folder.split("/")) & {*RESOURCES, *Action} <= set(out.split())
    for shown in ("First rejected rows", "invalid_format", "unknown_columns", "unknown_folder", "errors.csv"):
        assert shown in out
    assert "cut short was refused (delete_limit_exceeded): The batch would delete 80 of 120 records" in out
    assert "Warning column_shifted" in out
    assert "the right file is undone, the later edit stays: 5 reversed, 2 deleted, 1 kept" in out
    assert "Traceback" not in err
    statuses = [line for line in err.splitlines() if " … (" not in line]  # of steps that take long
    assert len(statuses) < 6 * len(load_samples(1000))  # no more than a line for each status
    assert left_running(data_dir) == []


def test_the_demonstration_stops_in_order_on_ctrl_c(session_folder: Path) -> None:
    data_dir = session_folder / DATA_DIR
    with start(data_dir) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "waits in the inbox" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert process.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("error: Interrupted")
    assert left_running(data_dir) == []


def test_the_numbers_expected_of_a_sample_account_for_every_row() -> None:
    assert load_samples(3000)[0].expected.stats.items_read == 3000
    for sample in load_samples(1000):
        if isinstance(sample.content, bytes) and sample.expected.status == "completed":
            assert sample.expected.stats.items_read == _items(sample.name, sample.content), sample.title


def test_samples_are_listed_after_those_that_they_wait_for() -> None:
    earlier: set[str] = set()
    for sample in load_samples(1000):
        assert {sample.after, sample.made_of} - {None} <= earlier
        assert sample.title not in earlier
        earlier.add(sample.title)


def _items(name: str, content: bytes) -> int:
    if name.endswith(".json"):
        return len(json.loads(content))
    if name.endswith(".ndjson"):
        return len(content.splitlines())
    text = content.decode("cp1252" if name.endswith(".txt") else "utf-8")
    delimiter = next(each for each in "\t;," if each in text.partition("\r\n")[0])
    return sum(1 for _ in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)) - 1
