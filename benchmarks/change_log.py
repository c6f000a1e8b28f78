"""What the change log costs: the same runs with BATCH_CHANGES on and off, one right after the other.

Each round loads contacts into an empty table (all new), twice; loads them again (none changed), twice; and loads them
with another name, email, phone and address (all changed), and back. The limits are 1.03, 1.03 and 1.15, for the median
of the rounds' ratios of run times. On a busy machine the ratio of the processor's time, of the command and the server
together, says more.
Usage: python -m benchmarks.change_log [--rows N] [--rounds N]
"""

import argparse
import statistics

import psycopg

from benchmarks.suite.ours import run_batch
from benchmarks.suite.world import World, opened_world

LIMITS = {"all new": 1.03, "none changed": 1.03, "all changed": 1.15}


def main() -> None:
    """Runs the rounds and prints each, then the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with opened_world("minimal", arguments.rows) as world:
        measure(world, arguments.rounds)


def measure(world: World, rounds: int) -> None:
    """Measures each case with and without the log; every second round begins without it.

    Prints seconds of the run, of its phase processing, and of the processor.
    """
    first, second = world.files.contacts(), world.files.contacts(seed=2)
    ratios: dict[str, list[tuple[float, ...]]] = {case: [] for case in LIMITS}
    for number in range(rounds):
        settings = ("on", "off") if number % 2 == 0 else ("off", "on")
        for case in LIMITS:
            measured = {}
            for changes, file in zip(
                settings, (second, first) if case == "all changed" else (first, first), strict=True
            ):
                if case == "all new":
                    world.clear()
                else:
                    world.settle()
                sample, _ = run_batch({**world.environment, "BATCH_CHANGES": changes}, file)
                used = (sample.processor_seconds or 0.0) + (sample.database_seconds or 0.0)
                measured[changes] = (sample.seconds, sample.phases["processing"], used)
                print(f"round {number + 1}, {case}, {changes}: {measured[changes]}, phases {sample.phases}", flush=True)
            ratios[case].append(tuple(on / off for on, off in zip(measured["on"], measured["off"], strict=True)))
        with psycopg.connect(world.url) as connection:
            logged = connection.execute("SELECT count(*) FROM contact_changes").fetchone()
        assert logged == (world.rows,), logged
    for case, limit in LIMITS.items():
        time, processing, processor = (statistics.median(each) for each in zip(*ratios[case], strict=True))
        print(
            f"{case}: {time:.3f} of the time (limit {limit}); of processing {processing:.3f}; "
            f"of the processor's time {processor:.3f}; rounds {[round(each[0], 3) for each in ratios[case]]}"
        )


if __name__ == "__main__":
    main()
