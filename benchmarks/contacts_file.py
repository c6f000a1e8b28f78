"""A large contacts file, the same for everyone who asks for the same number of rows."""

from pathlib import Path

import numpy as np

FIRST = "Ada Ben Cleo Dev Eva Finn Gita Hugo Ines Jan Kai Lena Mats Nora Omar Pia Quin Rosa Sven Tara".split()
LAST = "Adams Berg Costa Diaz Evans Fischer Garcia Hughes Ito Jensen Kim Lopez Meyer Novak Olsen Patel Rossi".split()
STREETS = "Oak Street,Main Street,Park Avenue,Cedar Lane,High Road,Mill Way,Lake Drive,Hill Court".split(",")
# Area codes of the United States that are in service, so that the numbers are valid.
AREAS = "212 213 305 312 404 415 503 512 602 617 702 718 720 801 916 919".split()
HEADER = "external_id,name,email,phone,address,address_line2,id_number,is_primary,notes"


def write_contacts(path: Path, rows: int, *, seed: int = 1) -> None:
    """Writes `rows` contacts as CSV: distinct external ids, emails and E.164 phones; about 110 bytes a row."""
    random = np.random.default_rng(seed)
    first = random.integers(0, len(FIRST), rows)
    last = random.integers(0, len(LAST), rows)
    area = random.integers(0, len(AREAS), rows)
    line = random.integers(0, 10_000, rows)
    house = random.integers(1, 9_999, rows)
    street = random.integers(0, len(STREETS), rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(HEADER + "\r\n")
        for i in range(rows):
            given, family = FIRST[first[i]], LAST[last[i]]
            flat = f"Apt {house[i] % 90}" if i % 4 == 0 else ""
            file.write(
                f"crm-{i:09},{given} {family},{given.lower()}.{family.lower()}{i}@example{i % 50}.com,"
                f"+1{AREAS[area[i]]}55{i % 10}{line[i]:04},{house[i]} {STREETS[street[i]]},{flat},"
                f"{i * 7919 % 10**9:09},{'true' if i % 10 == 0 else 'false'},"
                f"{'prefers mail' if i % 3 == 0 else ''}\r\n"
            )
