"""How long the row rules take on contacts, on one core, by how their phones and emails are written.

Every email and phone is distinct, so that nothing is decided once for many rows. Reading the upload, the database
and resolving identities are not part of it: `RowRules.check` is, chunk by chunk as in a batch. Seconds are those of
the processor, since other processes may hold the core. Usage: python benchmarks/validate_contacts.py [--rows N]
[--rounds N] [--only NAME]
"""

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from contacts_file import AREAS, FIRST, LAST, STREETS

from batch_pipeline.payloads.model import UNREADABLE_SCHEMA, RawChunk
from batch_pipeline.records.cells import ReadingOptions
from batch_pipeline.records.check import RowRules
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.fields import RuleContext
from batch_pipeline.settings import Settings

# Labels that every registry of their script would take.
WORDS = "müller straße café niño łódź škoda ελλάδα пример 例え 公司 한국 भारत".split()


def phone(i: int) -> tuple[str, str, str]:
    """Area, exchange and line of a distinct valid number of the United States."""
    mixed = i * 7919 % 1_600_000
    return AREAS[mixed // 100_000], f"55{mixed // 10_000 % 10}", f"{mixed % 10_000:04}"


def e164(i: int) -> str:
    """+14155550100."""
    return "+1" + "".join(phone(i))


def national(i: int) -> str:
    """(415) 555-0100."""
    return "({}) {}-{}".format(*phone(i))


def plain_email(i: int) -> str:
    """Of one of 50 domains."""
    return f"{FIRST[i % 20].lower()}.{LAST[i % 17].lower()}{i}@example{i % 50}.com"


def upper_email(i: int) -> str:
    """The same with a domain that isn't in lower case."""
    return f"{FIRST[i % 20]}.{LAST[i % 17]}{i}@Example{i % 50}.COM"


def international_email(i: int) -> str:
    """Of one of 1,200 internationalised domains."""
    return f"{FIRST[i % 20].lower()}{i}@{WORDS[i % 12]}{i % 1200 // 12}.com"


def punycode_email(i: int) -> str:
    """The same domains in their ASCII form."""
    local, domain = international_email(i).split("@")
    return f"{local}@{domain.encode('idna').decode()}"


def international_mailbox(i: int) -> str:
    """Local part and domain beyond ASCII."""
    return f"jürgen{i}@{WORDS[i % 12]}{i % 1200 // 12}.com"


def distinct_domain(i: int) -> str:
    """An internationalised domain of its own."""
    return f"{FIRST[i % 20].lower()}@{WORDS[i % 12]}{i}.com"


CASES: dict[str, tuple[Callable[[int], str], Callable[[int], str]]] = {
    "plain emails, E.164 phones": (plain_email, e164),
    "plain emails, national phones": (plain_email, national),
    "upper-case domains, E.164 phones": (upper_email, e164),
    "international domains": (international_email, e164),
    "Punycode domains": (punycode_email, e164),
    "international mailboxes": (international_mailbox, e164),
    "distinct international domains": (distinct_domain, e164),
}


def main() -> None:
    """Prints the best of the rounds for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    for name, (email, phone_of) in CASES.items():
        if arguments.only in name:
            chunks = list(contacts(arguments.rows, email, phone_of))
            seconds = min(measure(chunks) for _ in range(arguments.rounds))
            print(f"{name}: {seconds:.2f} s for {arguments.rows:,} contacts", flush=True)


def contacts(rows: int, email: Callable[[int], str], phone_of: Callable[[int], str]) -> Iterator[RawChunk]:
    """The contacts in chunks of the usual size."""
    size = Settings().chunk_rows
    for start in range(0, rows, size):
        numbers = range(start, min(start + size, rows))
        columns = {
            "external_id": [f"crm-{i:09}" for i in numbers],
            "name": [f"{FIRST[i % 20]} {LAST[i % 17]}" for i in numbers],
            "email": [email(i) for i in numbers],
            "phone": [phone_of(i) for i in numbers],
            "address": [f"{i % 9999} {STREETS[i % 8]}" for i in numbers],
            "address_line2": [f"Apt {i % 90}" if i % 4 == 0 else "" for i in numbers],
            "id_number": [f"{i * 7919 % 10**9:09}" for i in numbers],
            "is_primary": ["true" if i % 10 == 0 else "false" for i in numbers],
            "notes": ["prefers mail" if i % 3 == 0 else "" for i in numbers],
        }
        yield RawChunk(
            pa.array(np.arange(start, numbers.stop, dtype=np.int64) + 1),
            {name: pa.array(cells, pa.string()) for name, cells in columns.items()},
            {},
            UNREADABLE_SCHEMA.empty_table(),
        )


def measure(chunks: list[RawChunk]) -> float:
    """Seconds of the processor that the rules take on all chunks, none of which may have errors."""
    rules = RowRules(CONTACT, ReadingOptions(mapping={}, properties={}, blank_clears=False), RuleContext(region="US"))
    began = time.process_time()
    checked = [rules.check(chunk).errors.num_rows for chunk in chunks]
    seconds = time.process_time() - began
    assert sum(checked) == 0
    return seconds


if __name__ == "__main__":
    main()
