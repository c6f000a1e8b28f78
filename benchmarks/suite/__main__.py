"""The command line of the suite."""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.suite.cases import CASES, FULL_ROWS
from benchmarks.suite.page import write_page
from benchmarks.suite.results import ROOT, OtherResultsError, Results
from benchmarks.suite.running import run_suite
from benchmarks.suite.world import WAL_LEVELS

LEAST_ROWS = 1000


def main() -> int:
    """Measures what the results lack, and writes the page. Returns the exit code."""
    arguments = _parser().parse_args()
    # An installed package has bytecode. Without it, every process that is measured would compile the whole package.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        if arguments.page_only:
            results = Results.load(arguments.results)
        else:
            results = Results.opened(arguments.results, arguments.rows)
            if arguments.anew:
                for name in arguments.cases:
                    results.cases.pop(name, None)
            cases = [case for name, case in CASES.items() if name in arguments.cases]
            run_suite(
                results,
                arguments.results,
                cases,
                levels=arguments.wal_level,
                rounds=arguments.rounds,
                with_dlt=not arguments.without_dlt,
            )
    except (OtherResultsError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nInterrupted. The same command continues from {arguments.results}", file=sys.stderr)
        return 130
    write_page(results, arguments.page)
    print(f"{arguments.page} has the figures of {arguments.results}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description="Measures batches beside psql and dlt, and writes docs/performance.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rows", type=_rows, default=FULL_ROWS, help="contacts; other sizes are shares of it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", metavar="CASE", type=_case, default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--wal-level", nargs="+", choices=WAL_LEVELS, default=list(WAL_LEVELS))
    parser.add_argument("--without-dlt", action="store_true", help="leave dlt out")
    parser.add_argument("--results", type=Path, default=ROOT / ".benchmarks" / "results.json", help="stored samples")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="the page to write")
    parser.add_argument("--anew", action="store_true", help="drop the stored samples of the cases first")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page")
    return parser


def _case(name: str) -> str:
    if name not in CASES:
        raise argparse.ArgumentTypeError(f"there is no case {name}; the cases are {', '.join(CASES)}")
    return name


def _rows(text: str) -> int:
    rows = int(text.replace("_", ""))
    if rows < LEAST_ROWS:
        raise argparse.ArgumentTypeError(f"at least {LEAST_ROWS} rows are needed")
    return rows


if __name__ == "__main__":
    sys.exit(main())
