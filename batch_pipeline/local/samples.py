"""Sample uploads for the demonstration, each with what must become of it, number by number.

Made from a seed, so that the same call gives the same bytes. People and numbers are invented: mailboxes at example
domains, telephone numbers from the ranges that are kept free for fiction.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from batch_pipeline.batches.model import Stats
from batch_pipeline.local.club_samples import make_club_samples
from batch_pipeline.local.logistics_samples import make_logistics_samples
from batch_pipeline.local.sample_files import Expected, Sample, csv_text


def _words(text: str) -> list[str]:
    return text.split()


_FIRST_NAMES = _words(
    "Ada Alan Amélie Anna Björn Carlos Chidi Elena Emma Fatima Grace Hiroshi Ines Jana João Karim Lena Linus Mei Noor "
    "Olga Pedro Priya Ruth Søren Tomasz Uma Wei Yusuf Zoë"
)
_LAST_NAMES = _words(
    "Abara Becker Costa Dubois Eriksson Fischer García Hopper Ito Jansen Kowalski Lovelace Müller Nakamura O'Brien "
    "Okafor Petrov Quist Rossi Schmidt Tanaka Turing Ueda Vogel Weber Xu Ångström Zhang"
)
_STREETS = ("Main St", "Oak Ave", "Station Rd", "Rue de l'Église", "Lindenstraße", "Harbour View")
_CITIES = ("Springfield", "Riverton", "Lakeside", "Hillview", "Brookhaven")
_AREA_CODES = ("212", "305", "312", "404", "415", "503", "617", "702", "713", "206")

# Mistakes in the large file, each as many rows of a thousand (for one error) as said.
_MISTAKES = {
    "email": 3,
    "phone": 3,
    "name too long": 1,
    "no name": 2,
    "unknown id": 1,
    "malformed id": 1,
    "control character": 1,
    "cell missing": 1,
    "cell too many": 1,
    "not yes or no": 1,
    "email and phone": 1,
    "contradicting twin": 2,
}
_CODES = {
    "email": ("invalid_format",),
    "phone": ("invalid_format",),
    "name too long": ("too_long",),
    "no name": ("required",),
    "unknown id": ("id_not_found",),
    "malformed id": ("id_malformed",),
    "control character": ("invalid_format",),
    "cell missing": ("unreadable_row",),
    "cell too many": ("unreadable_row",),
    "not yes or no": ("invalid_type",),
    "email and phone": ("invalid_format", "invalid_format"),
    "contradicting twin": ("duplicate_key", "duplicate_key"),
}
_EQUAL_ROWS = 2  # of a thousand
_COLUMNS = ("id", "external_id", "name", "email", "phone", "address", "is_primary", "notes")

Row = dict[str, str]


def make_samples(rows: int = 100_000, seed: int = 1815) -> list[Sample]:
    """The demonstration's files: a large one of `rows` rows (1,000 or more) and its correction, and small ones."""
    if rows < 1_000:
        raise ValueError("the large file has mistakes by the thousand rows: make it of 1,000 or more")
    rng = random.Random(seed)  # noqa: S311 - samples, no secrets
    contacts, accepted = _contacts(rng, rows)
    newsletter = _newsletter(rng)
    return [
        contacts,
        _second_version(rng, accepted, after=contacts.title),
        _shop_customers(rng),
        newsletter,
        *make_logistics_samples(rng, readers=newsletter.title),
        _address_book(),
        _unknown_folder(),
        *make_club_samples(),
    ]


def _contacts(rng: random.Random, count: int) -> tuple[Sample, list[Row]]:
    """The large file: semicolons, quoted cells, about two rows in a hundred wrong. Returns its accepted rows too."""
    thousands = count // 1_000
    twins = _MISTAKES["contradicting twin"] * thousands
    equals = _EQUAL_ROWS * thousands
    kinds = [kind for kind, often in _MISTAKES.items() for _ in range(often * thousands)]
    kinds += ["equal"] * equals
    kinds += ["good"] * (count - len(kinds) - twins - equals)
    rng.shuffle(kinds)
    lines: list[Sequence[str]] = []
    accepted: list[Row] = []
    for number, kind in enumerate(kinds, start=1):
        row = _person(rng, f"C-{number:06}")
        made = _with_mistake(rng, row, kind)
        lines += made
        if kind in ("good", "equal"):
            accepted.append(row)
    codes = Counter(code for kind in kinds for code in _CODES.get(kind, ()))
    rejected = sum(_MISTAKES.values()) * thousands + twins
    expected = Expected(
        stats=Stats(created=len(accepted), rejected=rejected, duplicates=equals),
        codes=codes,
    )
    content = csv_text(_COLUMNS, lines, delimiter=";").encode()
    return Sample("contacts.csv", "contact/merge", "contacts.csv", content, expected), accepted


def _with_mistake(rng: random.Random, row: Row, kind: str) -> list[list[str]]:
    """The row's lines: one, or two for what takes two."""
    wrong_emails = ("{} at example.com", "{}@@example.com", "{}@example..com", "@example.com", "{}@")
    if kind in ("email", "email and phone"):
        row["email"] = rng.choice(wrong_emails).format(row["external_id"].lower())
    if kind in ("phone", "email and phone"):
        row["phone"] = rng.choice(("555-0132", "+1 999 555 0100 000", "call me", "12", "+0 415 555 0132"))
    if kind == "name too long":
        row["name"] = " ".join([row["name"]] * 60)
    if kind == "no name":
        row["name"] = ""
    if kind == "unknown id":
        row["id"] = "ctct_" + "".join(rng.choices("123456789ABCDEFGHJKLMNPQRSTUVWXYZ", k=22))
    if kind == "malformed id":
        row["id"] = rng.choice(("17", "ctct_17", "CTCT-0001", "grp_1111111111111111111111"))
    if kind == "control character":
        row["notes"] = "copied from\x07 a terminal"
    if kind == "not yes or no":
        row["is_primary"] = "perhaps"
    cells = [row[name] for name in _COLUMNS]
    if kind == "cell missing":
        return [cells[:-1]]
    if kind == "cell too many":
        return [[*cells, "one more"]]
    if kind == "equal":
        return [cells, cells]
    if kind == "contradicting twin":
        return [cells, [row[name] if name != "email" else f"other.{row['email']}" for name in _COLUMNS]]
    return [cells]


def _second_version(rng: random.Random, accepted: Sequence[Row], *, after: str) -> Sample:
    """The accepted rows again: some with a new address, a few new ones, a few spoilt."""
    changed, spoilt, new = len(accepted) // 25, len(accepted) // 500, len(accepted) // 100
    rows = [dict(row) for row in accepted]
    for row in rows[:changed]:
        row["address"] = f"{rng.randint(1000, 9999)} New Road, {rng.choice(_CITIES)}"
    for row in rows[changed : changed + spoilt]:
        row["email"] = "unknown"
    rows += [_person(rng, f"N-{number:06}") for number in range(1, new + 1)]
    rng.shuffle(rows)
    expected = Expected(
        stats=Stats(created=new, updated=changed, unchanged=len(accepted) - changed - spoilt, rejected=spoilt),
        codes={"invalid_format": spoilt},
    )
    content = csv_text(_COLUMNS, ([row[name] for name in _COLUMNS] for row in rows), delimiter=";").encode()
    return Sample("contacts.csv, changed", "contact/merge", "contacts.csv", content, expected, after=after)


def _shop_customers(rng: random.Random) -> Sample:
    """Headers of their own, Windows-1252, national numbers: a sidecar says how to read it."""
    lines = []
    for number in range(1, 401):
        name = (
            f"{rng.choice(('Jürgen', 'Käthe', 'Björn', 'Anna'))} {rng.choice(('Müller', 'Weiß', 'Schäfer', 'Vogel'))}"
        )
        lines.append([name, f"kunde{number}@shop.example.org", f"030 23125 {number:03}", "Lindenstraße 1"])
    lines[3][1] = "kunde4"
    lines[7][2] = "112233"
    lines.append(list(lines[0]))
    options = {
        "column_mapping": {"name": "Full name", "email": "E-Mail", "phone": "Telephone"},
        "properties": {"notes": "from the shop"},
        "default_region": "DE",
        "save_result": True,
    }
    content = csv_text(("Full name", "E-Mail", "Telephone", "address"), lines, delimiter="\t").encode("cp1252")
    expected = Expected(stats=Stats(created=398, rejected=2, duplicates=1), codes={"invalid_format": 2})
    return Sample("shop-customers.txt", "contact/merge", "shop-customers.txt", content, expected, options=options)


def _newsletter(rng: random.Random) -> Sample:
    """A JSON array with objects in it."""
    items: list[Any] = [
        {
            "name": _name(rng),
            "email": f"reader{number}@news.example.com",
            "is_primary": number % 2 == 0,
            "notes": None,
            "metadata": {"language": rng.choice(("en", "de", "fr")), "source": "newsletter"},
        }
        for number in range(1, 301)
    ]
    items[10]["nickname"] = "Bo"
    items[20]["is_primary"] = "perhaps"
    items[30]["metadata"] = ["no", "object"]
    items += [dict(items[0]), "not an object"]
    expected = Expected(
        stats=Stats(created=297, rejected=4, duplicates=1),
        codes={"unknown_field": 1, "invalid_type": 2, "unreadable_row": 1},
    )
    content = json.dumps(items, ensure_ascii=False, indent=1).encode()
    return Sample("newsletter.json", "contact/merge", "newsletter.json", content, expected)


def _address_book() -> Sample:
    """Headers that nothing explains: refused as a whole."""
    content = csv_text(("name", "e-mail", "favourite colour"), [["Ada", "ada@example.com", "blue"]]).encode()
    expected = Expected(status="failed", reason="unknown_columns")
    return Sample("address-book.csv", "contact/merge", "address-book.csv", content, expected)


def _unknown_folder() -> Sample:
    """Put where no resource lives."""
    content = csv_text(("name",), [["Ada"]]).encode()
    return Sample(
        "parcels.csv", "parcel/merge", "parcels.csv", content, Expected(status="failed", reason="unknown_folder")
    )


def _person(rng: random.Random, external_id: str) -> Row:
    mailbox = external_id.lower().replace("-", "")
    area, line = rng.choice(_AREA_CODES), rng.randint(100, 199)  # 555-0100 to 555-0199
    written = rng.choice(("+1{0}5550{1}", "+1 {0} 555 0{1}", "({0}) 555-0{1}", "{0}-555-0{1}"))
    street = f"{rng.randint(1, 999)} {rng.choice(_STREETS)}"
    return {
        "id": "",
        "external_id": external_id,
        "name": _name(rng),
        "email": f"{mailbox}@{rng.choice(('example.com', 'example.org', 'Example.NET'))}",
        "phone": written.format(area, line),
        "address": f"{street}; {rng.choice(_CITIES)}" if rng.random() < 0.2 else f"{street}, {rng.choice(_CITIES)}",
        "is_primary": rng.choice(("yes", "no", "true", "0", "")),
        "notes": rng.choice(("", "", "", 'says "hello"', "first line\nsecond line", "VIP")),
    }


def _name(rng: random.Random) -> str:
    return f"{rng.choice(_FIRST_NAMES)} {rng.choice(_LAST_NAMES)}"
