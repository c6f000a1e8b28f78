"""Compressed uploads: read as what they hold, refused where they are broken, cut off, nested or would fill the disk."""

import gzip
import itertools
import struct
import sys
import zlib
from collections.abc import Callable

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.payloads.compression import HARMLESS_BYTES, OUTPUT_BYTES

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Larger than what a member is read by.
PART_BYTES = 4 << 10

Compress = Callable[[bytes], bytes]


def _zstd_with_checksum(data: bytes) -> bytes:
    return bytes(zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}))


COMPRESSIONS = pytest.mark.parametrize("compress", [gzip.compress, _zstd_with_checksum], ids=["gzip", "zstd"])


@COMPRESSIONS
@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        ("a,b\n1,2\n", "x.csv", "csv"),
        ('[{"a":"1","b":"2"}]', "x.json", "json"),
        ('{"a":"1","b":"2"}\n', "x", "ndjson"),
        ("\ufeffa;b\r1;2", "people", "csv"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz", ".ZST", ".csv"])
def test_what_is_in_it_tells_the_format_whatever_its_name(read_upload, *, compress, data, name, expected, suffix):
    reading = read_upload(compress(data.encode()), name + suffix)
    assert reading.format == expected
    assert reading.items == {1: {"a": "1", "b": "2"}}


@COMPRESSIONS
def test_the_name_without_its_suffix_decides_where_the_content_does_not(read_upload, refusal_of, compress):
    assert "array" in refusal_of(compress(b'{"a":1}'), "x.json.gz").message
    assert read_upload(compress(b'oops\n{"a":"1"}\n'), "x.jsonl.zst").format == "ndjson"


@given(
    data=st.binary(max_size=3 * PART_BYTES),
    cuts=st.lists(st.integers(0, 3 * PART_BYTES), max_size=3),
    uses_zstd=st.booleans(),
    has_padding=st.booleans(),
)
@settings(max_examples=examples(30, thorough=200))
def test_any_members_in_a_row_are_one_file(read_upload, *, data, cuts, uses_zstd, has_padding):
    text = data.hex()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [f"a\n{text}"[:2], *(text[start:stop] for start, stop in itertools.pairwise(edges))]
    compress: Compress = _zstd_with_checksum if uses_zstd else gzip.compress
    members = [compress(part.encode()) for part in parts]
    if uses_zstd and has_padding:
        members.insert(0, struct.pack("<II", 0x184D2A53, 3) + b"abc")  # a skippable frame, as pzstd writes
    elif has_padding:
        members.append(bytes(700))
    reading = read_upload(b"".join(members))
    assert [item["a"] for item in reading.items.values()] == ([text] if text else [])


@COMPRESSIONS
def test_a_large_result_is_written_in_small_pieces_and_is_whole(read_upload, compress):
    rows = [f"{number:07}" for number in range(3 * OUTPUT_BYTES // 8)]
    reading = read_upload(compress("\n".join(["a", *rows]).encode()))
    assert [item["a"] for item in reading.items.values()] == rows


@COMPRESSIONS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_file_that_is_cut_off_is_refused_with_the_byte(refusal_of, compress, share):
    whole = compress("".join(f"{number * 7919 % 10007},x\n" for number in range(20_000)).encode())
    size = int(len(whole) * share)
    refusal = refusal_of(whole[:size], "x.csv")
    assert refusal.code == "unreadable_file"
    assert f"ends at byte {size:,}" in refusal.message


@COMPRESSIONS
def test_a_broken_file_is_refused_with_where_it_is(refusal_of, compress):
    whole = bytearray(compress("".join(f"{number * 7919 % 10007},x\n" for number in range(20_000)).encode()))
    place = len(whole) - 2  # in the checksum
    whole[place] ^= 0xFF
    refusal = refusal_of(bytes(whole), "x.csv")
    assert refusal.code == "unreadable_file"
    assert f"before byte {len(whole):,}" in refusal.message


@COMPRESSIONS
@pytest.mark.parametrize("rest", [b"a,b\n1,2\n", b"\x1f\x8b\x08", b"\x28\xb5", b"x", bytes(9) + b"x"])
def test_what_follows_the_last_member_and_is_none_refuses_the_file(refusal_of, compress, rest):
    assert refusal_of(compress(b"a\n1\n") + rest).code == "unreadable_file"


@COMPRESSIONS
@pytest.mark.parametrize("inner", [gzip.compress, _zstd_with_checksum], ids=["gzip", "zstd"])
def test_a_compressed_file_in_a_compressed_file_is_refused(refusal_of, compress, inner):
    refusal = refusal_of(compress(inner(b"a\n1\n")))
    assert refusal.code == "unsupported_format"
    assert "once only" in refusal.message


@COMPRESSIONS
def test_nothing_in_it_is_an_empty_file_and_other_formats_in_it_are_named(refusal_of, compress):
    assert refusal_of(compress(b""), "x.csv.gz").code == "empty_file"
    assert refusal_of(compress(b" \n\n")).code == "empty_file"
    assert "PDF" in refusal_of(compress(b"%PDF-1.7\n")).message


@COMPRESSIONS
def test_more_than_the_limit_is_refused_naming_the_setting(read_upload, refusal_of, compress):
    data = compress(b"a\n" + b"x\n" * 500)
    assert len(read_upload(data, max_decompressed_bytes=1002).items) == 500
    refusal = refusal_of(data, max_decompressed_bytes=1001)
    assert refusal.code == "too_large"
    assert "BATCH_MAX_DECOMPRESSED_BYTES" in refusal.message


@pytest.mark.parametrize("uses_zstd", [True, False])
def test_a_decompression_bomb_is_refused_before_it_fills_the_disk(refusal_of, upload_folder, uses_zstd):
    size = HARMLESS_BYTES * 3
    block = bytes(1 << 20)
    compressor = zstd.ZstdCompressor() if uses_zstd else zlib.compressobj(wbits=31)
    bomb = b"".join([*(compressor.compress(block) for _ in range(size >> 20)), compressor.flush()])
    refusal = refusal_of(bomb, "x.csv.gz")
    assert refusal.code == "too_large"
    assert "BATCH_MAX_DECOMPRESSION_RATIO" in refusal.message
    (spool,) = upload_folder.glob("*.plain")
    assert spool.stat().st_size <= max(HARMLESS_BYTES, 200 * len(bomb))
    spool.unlink()


def test_a_zstd_window_that_would_take_the_memory_is_refused(refusal_of):
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 30})
    refusal = refusal_of(compressor.compress(b"a\n1\n") + compressor.flush())
    assert refusal.code == "unreadable_file"
    assert "memory" in refusal.message


def test_small_files_may_be_compressed_as_well_as_can_be(read_upload):
    rows = 200_000
    data = gzip.compress(b"a\n" + b"0\n" * rows, 9)
    assert 2 * rows > 200 * len(data)
    assert len(read_upload(data).items) == rows
