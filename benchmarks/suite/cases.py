"""The cases of the suite, in the order in which they run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.suite import contacts, formats, services
from benchmarks.suite.model import Contestant
from benchmarks.suite.world import World

FULL_ROWS = 1_000_000


@dataclass(frozen=True)
class Case:
    """One case. `contestants` makes its files and the state it starts from.

    A case that loads large files runs at each `wal_level`. The others run once.
    """

    name: str
    title: str  #: with {rows} for the number of rows
    contestants: Callable[[World], list[Contestant]]
    by_wal_level: bool = True
    share: float = 1.0  #: its rows, in the rows of the suite
    has_dlt: bool = False  #: whether dlt is a contestant
    most_rounds: int | None = None  #: for a case that is long, and measures many times itself

    def heading(self, rows: int) -> str:
        """The title at a size."""
        return self.title.format(rows=f"{max(1, round(rows * self.share)):,}")


_CASES = (
    Case("all_new", "All of {rows} contacts are new", contacts.all_new, has_dlt=True),
    Case("all_changed", "All of {rows} contacts are changed", partial(contacts.changed, every=1), has_dlt=True),
    Case("tenth_changed", "10 % of {rows} contacts are changed", partial(contacts.changed, every=10), has_dlt=True),
    Case("hundredth_changed", "1 % of {rows} contacts are changed", partial(contacts.changed, every=100), has_dlt=True),
    Case("none_changed", "None of {rows} contacts is changed", partial(contacts.changed, every=None), has_dlt=True),
    Case("rejected", "10 % of {rows} new contacts are rejected", contacts.rejected),
    Case("overwrite", "Overwrite removes 30 % of {rows} contacts, the others are unchanged", contacts.overwrite),
    Case("delete", "Delete of all {rows} contacts", contacts.delete),
    Case("shipments", "{rows} new shipments with nested JSON", formats.shipments, share=0.1),
    Case("formats", "{rows} new contacts by format", formats.formats, share=0.2),
    Case("equal_rows", "{rows} equal rows", contacts.equal_rows, share=5),
    Case("tenfold", "All of {rows} contacts are new", contacts.tenfold, share=10),
    Case("small_files", "Files of 100 rows, two workers", services.small_files, False),
    Case("sync_1", "Sync call of 1 item", partial(services.sync, items=1), False),
    Case("sync_100", "Sync call of 100 items", partial(services.sync, items=100), False),
    Case("api", "The API under 50 clients", services.api, False),
    Case("commands", "Commands on an existing system", services.commands, False),
    Case(
        "idle_system", "An idle local system: a file of one row, and memory", services.idle_system, False, most_rounds=1
    ),
)
CASES = {case.name: case for case in _CASES}
