"""Copies of files that become uploads."""

import hashlib
from pathlib import Path

import pytest

from batch_pipeline.settings import MIB
from batch_pipeline.storage.local_copy import copy_file


@pytest.mark.parametrize("content", [b"", b"name\nAda\n", b"x" * (9 * MIB)], ids=["empty", "small", "several blocks"])
def test_a_copy_has_the_content_and_its_checksum(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "people.csv"
    source.write_bytes(content)
    copy = copy_file(source, tmp_path / "copy", is_left=lambda: False)
    source.write_bytes(b"changed")
    assert (copy.path.read_bytes(), copy.checksum) == (content, hashlib.sha256(content).hexdigest())


def test_a_copy_that_nobody_awaits_ends_early(tmp_path: Path) -> None:
    source = tmp_path / "people.csv"
    source.write_bytes(b"x" * (9 * MIB))
    asked: list[bool] = []

    def is_left() -> bool:
        asked.append(True)
        return len(asked) > 1

    copy_file(source, tmp_path / "copy", is_left=is_left)
    assert 0 < (tmp_path / "copy").stat().st_size < 9 * MIB
