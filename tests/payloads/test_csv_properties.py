"""CSV: properties over open inputs, with tiny blocks so that every kind of block edge occurs."""

from dataclasses import dataclass, field, replace

import pytest
from examples import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text("\",;|\t\r\n a'", max_size=6)
BLOCK_BYTES = st.integers(1, 40) | st.just(1 << 20)


@dataclass(frozen=True)
class Dialect:
    """One way of writing CSV, written here without any library's help."""

    delimiter: str
    line_end: str
    quotes_all: bool
    ends_last_line: bool

    def write_cell(self, text: str, *, alone: bool) -> str:
        special = any(character in text for character in (self.delimiter, '"', "\r", "\n"))
        if self.quotes_all or special or (alone and not text):
            return '"' + text.replace('"', '""') + '"'
        return text

    def write(self, rows: list[list[str]]) -> str:
        lines = [self.delimiter.join(self.write_cell(cell, alone=len(row) == 1) for cell in row) for row in rows]
        return self.line_end.join(lines) + (self.line_end if self.ends_last_line else "")


DIALECTS = st.builds(
    Dialect,
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quotes_all=st.booleans(),
    ends_last_line=st.booleans(),
)


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    width = draw(st.integers(1, 5))
    return draw(st.lists(st.lists(TEXTS, min_size=width, max_size=width), max_size=8))


@given(
    table=tables(),
    dialect=DIALECTS,
    block_bytes=BLOCK_BYTES,
    chunk_rows=st.integers(1, 5),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@settings(max_examples=examples(40, thorough=500))
def test_any_table_in_any_dialect_reads_back_the_same(
    read_upload, *, table, dialect, block_bytes, chunk_rows, encoding
):
    names = [f"c{position}" for position in range(len(table[0]) if table else 2)]
    if len(names) == 1:
        dialect = replace(dialect, delimiter=",")  # what a header of one name is taken for
    data = dialect.write([names, *table]).encode(encoding)
    reading = read_upload(data, "x.csv", block_bytes=block_bytes, chunk_rows=chunk_rows)
    assert reading.columns == tuple(names)
    assert reading.raws == {}
    assert [list(reading.items[row + 1].values()) for row in range(len(table))] == table


@dataclass
class Expected:
    """What the rules say of a text, found character by character."""

    items: dict[int, list[str]] = field(default_factory=dict)
    raws: dict[int, str] = field(default_factory=dict)


def quoted_cell(text: str, start: int, max_cell: int) -> tuple[str, int] | None:
    """The quoted cell whose quote stands at ``start``, and its end; None if that quote is broken."""
    content = ""
    position = start + 1
    while position < len(text):
        if text[position : position + 2] == '""':
            content += '"'
            position += 2
        elif text[position] != '"':
            content += text[position]
            position += 1
        else:
            closes = text[position + 1 : position + 2] in ("", ",", "\r", "\n")
            return (content, position + 1) if closes and position - start - 1 <= max_cell else None
    return None


def has_lost_delimiter(unquoted: list[str]) -> bool:
    """Whether a quote stands within the text of an unquoted cell, and a later one ends in a quote."""
    return any(
        '"' in cell.rstrip('"') and any(later.endswith('"') for later in unquoted[place + 1 :])
        for place, cell in enumerate(unquoted)
    )


def read_by_the_rules(text: str, *, width: int, max_cell: int, max_item: int) -> Expected:
    """The rules as an exact machine over ASCII text with commas: slow, plain, and independent of the reader."""

    def end_of(characters: str, position: int) -> int:
        while position < len(text) and text[position] not in characters:
            position += 1
        return position

    expected = Expected()
    row = position = 0
    while position < len(text):
        start = position
        cells: list[str] = []
        unquoted: list[str] = []
        good = True
        while True:
            if text[position : position + 1] != '"':
                end = end_of(",\r\n", position)
                cells.append(text[position:end])
                unquoted.append(cells[-1])
                good = good and end - position <= max_cell
            elif quoted := quoted_cell(text, position, max_cell):
                cells.append(quoted[0])
                end = quoted[1]
            else:
                good = False
                end = end_of("\r\n", position)
            position = end
            if text[position : position + 1] != ",":
                break
            position += 1
        raw = text[start:position]
        position += 2 if text[position : position + 2] == "\r\n" else 1
        if not raw:
            continue
        row += 1
        good = good and not has_lost_delimiter(unquoted)
        if good and len(raw) <= max_item and len(cells) == width:
            expected.items[row] = cells
        else:
            expected.raws[row] = raw[:max_item]
    return expected


STRAY_QUOTES = st.lists(
    st.sampled_from([*'a",\n', 'a"a', 'a"', ',a"', '"a,"', '",\n"', '"",', "\r\n", "\r"]), max_size=20
).map("".join)
CSV_LIKE = (
    STRAY_QUOTES
    | st.text('a",\r\n', max_size=60)
    | st.lists(
        st.sampled_from(["a", '"', '""', ",", "\n", "\r\n", '"a"', ',"', '",', '\n"', '"\n', "a,a\n", '"a\na",a\n']),
        max_size=40,
    ).map("".join)
)


@given(CSV_LIKE, st.integers(1, 3), BLOCK_BYTES)
@settings(max_examples=examples(60, thorough=500))
def test_any_text_is_read_by_the_rules(read_upload, text, width, block_bytes):
    header = ",".join("abc"[:width])
    reading = read_upload(f"{header}\n{text}", "x.csv", block_bytes=block_bytes)
    expected = read_by_the_rules(text, width=width, max_cell=1 << 20, max_item=1 << 22)
    assert {row: list(item.values()) for row, item in reading.items.items()} == expected.items
    assert reading.raws == expected.raws


@given(
    text=CSV_LIKE,
    width=st.integers(1, 3),
    block_bytes=BLOCK_BYTES,
    max_cell=st.integers(1, 12),
    max_item=st.integers(5, 20),
)
@example(text="\raaaaa\r\na", width=1, block_bytes=2, max_cell=5, max_item=4)
@settings(max_examples=examples(60, thorough=500))
def test_any_text_is_read_by_the_rules_under_small_limits(read_upload, *, text, width, block_bytes, max_cell, max_item):
    header = ",".join("abc"[:width])
    max_item += len(header)
    reading = read_upload(
        f"{header}\n{text}",
        "x.csv",
        block_bytes=block_bytes,
        max_cell_bytes=max_cell,
        max_item_bytes=max_item,
    )
    expected = read_by_the_rules(text, width=width, max_cell=max_cell, max_item=max_item)
    assert {row: list(item.values()) for row, item in reading.items.items()} == expected.items
    assert reading.raws == expected.raws


@pytest.mark.parametrize("block_bytes", [1, 5, 64])
@given(texts=st.lists(st.text('aé日😀,"\n', max_size=5), min_size=1, max_size=6))
@settings(max_examples=examples(25, thorough=200))
def test_a_block_edge_within_a_character_changes_nothing(read_upload, texts, block_bytes):
    dialect = Dialect(",", "\n", quotes_all=True, ends_last_line=True)
    reading = read_upload(dialect.write([["a"], *([text] for text in texts)]), block_bytes=block_bytes)
    assert [item["a"] for item in reading.items.values()] == texts
