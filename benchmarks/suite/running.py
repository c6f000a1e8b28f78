"""Runs cases: in each round every contestant once, each round beginning with another one."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.suite.cases import Case
from benchmarks.suite.contacts import DLT, DLT_INDEXED
from benchmarks.suite.dlt_table import environment as dlt_environment
from benchmarks.suite.model import Contestant, ContestantMissingError
from benchmarks.suite.results import ONCE, Measured, Results
from benchmarks.suite.world import World, opened_world

NOT_WANTED = "left out by --without-dlt"


def run_suite(
    results: Results, path: Path, cases: Sequence[Case], *, levels: Sequence[str], rounds: int, with_dlt: bool
) -> None:
    """Measures what the results lack, and stores each sample as it comes."""
    if any(case.has_dlt for case in cases):
        _find_dlt(results, with_dlt=with_dlt)
    for level in levels:
        here = [case for case in cases if case.by_wal_level or level == levels[0]]
        lacking = [
            (case, found)
            for case in here
            if not (found := results.of(case.name, level_of(case, level))).is_done(
                rounds_of(case, rounds), results.missing
            )
        ]
        for case in here:
            if case not in [other for other, _ in lacking]:
                print(f"{case.name}, {level_of(case, level)}: measured already; --anew measures it again", flush=True)
        if lacking:
            with opened_world(level, results.rows) as world:
                for case, found in lacking:
                    _run_case(case, world, results, found, path=path, rounds=rounds_of(case, rounds))


def rounds_of(case: Case, rounds: int) -> int:
    """How many of the rounds a case takes part in."""
    return rounds if case.most_rounds is None else min(rounds, case.most_rounds)


def level_of(case: Case, level: str) -> str:
    """Under what the results of a case are stored."""
    return level if case.by_wal_level else ONCE


def _find_dlt(results: Results, *, with_dlt: bool) -> None:
    """Records whether dlt can take part."""
    results.missing.clear()
    try:
        if with_dlt:
            dlt_environment()
            return
        reason = NOT_WANTED
    except ContestantMissingError as error:
        reason = str(error)
    results.missing.update({DLT: reason, DLT_INDEXED: reason})
    print(f"dlt is left out: {reason}", flush=True)


def _run_case(case: Case, world: World, results: Results, found: Measured, *, path: Path, rounds: int) -> None:
    print(f"{case.heading(results.rows)} ({case.name}, wal_level {world.wal_level})", flush=True)
    contestants = case.contestants(world)
    found.contestants = [each.name for each in contestants]
    contestants = [each for each in contestants if each.name not in results.missing]
    for number in range(rounds):
        if number == len(found.rounds):
            found.rounds.append({})
        samples = found.rounds[number]
        for contestant in _rotated(contestants, number):
            if contestant.name in samples:
                continue
            samples[contestant.name] = sample = contestant.measure()
            results.save(path)
            print(f"  round {number + 1}, {contestant.name}: {sample.seconds:.2f} s", flush=True)


def _rotated(contestants: list[Contestant], number: int) -> list[Contestant]:
    first = number % len(contestants)
    return contestants[first:] + contestants[:first]
