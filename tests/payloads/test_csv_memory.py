"""CSV: memory stays bounded, whatever the quotes of a file are."""

import subprocess
import sys
from pathlib import Path

import pytest

MIB = 1 << 20
# Reads a file in a process of its own and prints by how many bytes reading raised the peak of its memory.
READING = """
import sys
from pathlib import Path
from batch_pipeline.payloads.model import ReadLimits
from batch_pipeline.payloads.reader import open_payload
from batch_pipeline.settings import Settings

def peak_bytes():
    # Not ru_maxrss: it begins with the size of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

path = Path(sys.argv[1])
limits = ReadLimits.from_settings(Settings(database_url=None, storage_url=None))
before = peak_bytes()
unreadable = sum(chunk.unreadable.num_rows for chunk in open_payload(path, name=path.name, limits=limits).chunks())
print(unreadable, peak_bytes() - before)
"""


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="that open and close cells"),
        pytest.param(b"x", id="within text"),
        pytest.param(b'"x,', id="within a quoted cell"),
    ],
)
def test_a_run_of_quotes_is_read_in_bounded_memory(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "quotes.csv"
    path.write_bytes(b"a,b\n" + start + b'"' * (64 * MIB))
    done = subprocess.run([sys.executable, "-c", READING, str(path)], capture_output=True, text=True, check=True)
    unreadable, growth_bytes = map(int, done.stdout.split())
    assert unreadable == 1
    assert growth_bytes < 150 * MIB
