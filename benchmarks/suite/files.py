"""The uploads of the cases. Each is made once and is the same for everyone who asks for the same number of rows."""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO

import xlsxwriter

from benchmarks.contacts_file import HEADER, write_contacts

COLUMNS = HEADER.split(",")
EQUAL_ROW = "crm-000000000,Ada Adams,ada.adams@example.com,+12125550100,1 Oak Street,,000000001,true,\r\n"


class Files:
    """The files of one folder, made when a case asks for them first."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.rows = rows

    def contacts(self, rows: int | None = None, *, seed: int = 1) -> Path:
        """Contacts; those of another seed have the same external ids and another name, email, phone and address."""
        rows = self.rows if rows is None else rows
        return self._made(f"contacts-{rows}-{seed}.csv", lambda path: write_contacts(path, rows, seed=seed))

    def changed(self, every: int) -> Path:
        """The contacts, of which every so-many-th is changed."""
        if every == 1:
            return self.contacts(seed=2)

        def lines() -> Iterator[str]:
            with _opened(self.contacts()) as first, _opened(self.contacts(seed=2)) as second:
                for number, (old, new) in enumerate(zip(first, second, strict=True)):
                    yield new if number and number % every == 0 else old

        return self._written(f"changed-{every}.csv", lines())

    def first(self, share: float) -> Path:
        """The first part of the contacts."""
        kept = int(self.rows * share)

        def lines() -> Iterator[str]:
            with _opened(self.contacts()) as source:
                yield from itertools.islice(source, kept + 1)

        return self._written(f"first-{kept}.csv", lines())

    def spoiled(self) -> Path:
        """The contacts with one fault in every tenth row: a broken email, a broken phone, or a cell too many."""

        def lines() -> Iterator[str]:
            with _opened(self.contacts()) as source:
                yield next(source)
                for number, line in enumerate(source):
                    yield line if number % 10 else _spoil(line, number // 10 % 3)

        return self._written("spoiled.csv", lines())

    def equal(self, rows: int) -> Path:
        """One contact, so many times."""
        return self._written(f"equal-{rows}.csv", itertools.chain([HEADER + "\r\n"], itertools.repeat(EQUAL_ROW, rows)))

    def with_ids(self, source: Path) -> Path:
        """A file of contacts with an id in front of each: psql and dlt get theirs ready-made."""

        def lines() -> Iterator[str]:
            with _opened(source) as plain:
                yield "id," + next(plain)
                for number, line in enumerate(plain):
                    yield f"ctct_bench{number:017}," + line

        return self._written(f"ids-{source.name}", lines())

    def json_contacts(self, rows: int) -> Path:
        """The contacts as one JSON array."""

        def lines() -> Iterator[str]:
            yield "[\n"
            with _opened(self.contacts(rows)) as source:
                for number, row in enumerate(csv.DictReader(source)):
                    cells = {name: value for name, value in row.items() if value}
                    cells["is_primary"] = row["is_primary"] == "true"
                    yield f"{',' if number else ''}{json.dumps(cells)}\n"
            yield "]\n"

        return self._written(f"contacts-{rows}.json", lines())

    def xlsx_contacts(self, rows: int) -> Path:
        """The contacts as a workbook of texts."""

        def write(path: Path) -> None:
            workbook = xlsxwriter.Workbook(path, {"constant_memory": True})
            sheet = workbook.add_worksheet()
            with _opened(self.contacts(rows)) as source:
                for number, row in enumerate(csv.reader(source)):
                    for column, text in enumerate(row):
                        sheet.write_string(number, column, text)
            workbook.close()

        return self._made(f"contacts-{rows}.xlsx", write)

    def shipments(self, rows: int) -> Path:
        """Shipments as one JSON array, each with sender, recipient, two parcels and metadata."""

        def lines() -> Iterator[str]:
            yield "[\n"
            for number in range(rows):
                yield f"{',' if number else ''}{json.dumps(_shipment(number))}\n"
            yield "]\n"

        return self._written(f"shipments-{rows}.json", lines())

    def _written(self, name: str, lines: Iterable[str]) -> Path:
        def write(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                file.writelines(lines)

        return self._made(name, write)

    def _made(self, name: str, write: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            unfinished = path.with_name(f"unfinished-{name}")
            write(unfinished)
            unfinished.rename(path)
        return path


def _opened(path: Path) -> TextIO:
    return path.open(encoding="utf-8", newline="")


def _spoil(line: str, fault: int) -> str:
    cells = line.split(",")
    if fault == 0:
        cells[2] = cells[2].replace("@", " at ")
    elif fault == 1:
        cells[3] = cells[3][:5]
    else:
        cells.insert(1, "")
    return ",".join(cells)


def _shipment(number: int) -> dict[str, object]:
    return {
        "external_id": f"order-{number:09}",
        "tracking_number": f"BENCH{number:012}",
        "provider": "bench",
        "sender": {
            "name": "Main Warehouse",
            "email": f"dispatch{number % 20}@example.com",
            "phone": f"+1212555{number % 10_000:04}",
            "address": "1 Mill Way",
        },
        "recipient": {
            "name": f"Ada Lovelace {number}",
            "email": f"ada{number}@example{number % 50}.com",
            "phone": f"+1415555{number % 10_000:04}",
            "address": f"{number % 9_999} Oak Street",
            "address_line2": f"Apt {number % 90}",
        },
        "parcels": [
            {"length": 10 + number % 50, "width": 20, "height": 7.5, "weight": 1 + number % 30, "type": "box"},
            {"length": 30, "width": 20 + number % 20, "height": 2, "weight": 0.4, "type": "envelope"},
        ],
        "amount": f"{number % 1000}.50",
        "currency": "usd",
        "status": "in_transit" if number % 3 else "delivered",
        "paid": number % 2 == 0,
        "coordinates": [40 + number % 100 / 100, -73.5],
        "metadata": {"segment": "gold" if number % 5 == 0 else "plain", "order": str(number)},
    }
