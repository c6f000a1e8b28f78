"""The benchmark suite measures, stores every sample, continues, and makes its page from the stored results alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ("all_new", "hundredth_changed")


def _suite(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    files = ["--results", str(folder / "results.json"), "--page", str(folder / "docs" / "performance.md")]
    command = [sys.executable, "-m", "benchmarks.suite", *files, *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_an_unknown_case_is_refused_with_the_list_of_cases(tmp_path: Path) -> None:
    refused = _suite(tmp_path, "--cases", "all_new", "all_old")
    assert refused.returncode == 2
    assert "there is no case all_old; the cases are all_new, all_changed, " in refused.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(900)
def test_a_small_run_is_stored_and_continued_and_its_page_can_be_made_again_from_the_stored_results(
    tmp_path: Path,
) -> None:
    small = ("--rows", "2000", "--rounds", "1", "--wal-level", "minimal", "--without-dlt", "--cases")
    first = _suite(tmp_path, *small, *CASES)
    assert first.returncode == 0, first.stderr
    stored = tmp_path / "results.json"
    results = json.loads(stored.read_text())
    assert (results["rows"], sorted(results["cases"])) == (2000, sorted(CASES))
    assert results["machine"].keys() == {"processor", "cores", "memory", "system", "PostgreSQL", "Python"}
    (samples,) = results["cases"]["hundredth_changed"]["minimal"]["rounds"]
    assert sorted(samples) == ["ours", "psql", "psql, all new"]
    ours = samples["ours"]
    assert 0 < sum(ours["phases"].values()) < ours["seconds"] < ours["command_seconds"]
    assert ours["processor_seconds"] > 0
    assert ours["database_seconds"] > 0
    assert 50 < ours["memory_megabytes"] < 2000

    page = tmp_path / "docs" / "performance.md"
    text = page.read_text()
    assert "| all new: run / psql | minimal |" in text
    assert "Not measured: dlt, dlt with our indexes (left out by --without-dlt)." in text
    assert "**This is a reduced size.**" in text
    plot = (tmp_path / "docs" / "images" / "performance.svg").read_text()
    assert "hundredth_changed, minimal" in plot

    # What an interruption leaves: a round without one of its contestants. Only that one is measured again.
    (round_1,) = results["cases"]["all_new"]["minimal"]["rounds"]
    kept = round_1["ours"]
    del round_1["psql"]
    stored.write_text(json.dumps(results))
    again = _suite(tmp_path, *small, *CASES)
    assert again.returncode == 0, again.stderr
    assert "hundredth_changed, minimal: measured already" in again.stdout
    (round_1,) = json.loads(stored.read_text())["cases"]["all_new"]["minimal"]["rounds"]
    assert round_1["ours"] == kept
    assert [line.split(":")[0] for line in again.stdout.splitlines() if "  round" in line] == ["  round 1, psql"]

    text = page.read_text()
    for path in (page, stored):
        path.rename(tmp_path / path.name.replace("performance", "earlier").replace("results", "moved"))
    rebuilt = _suite(tmp_path, "--page-only", "--results", str(page.with_suffix(".json")))
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert page.read_text() == text

    other = _suite(tmp_path, *small[2:], *CASES, "--rows", "3000", "--results", str(page.with_suffix(".json")))
    assert other.returncode == 2
    assert "has results of 2,000 rows" in other.stderr


def test_the_page_in_the_documentation_is_what_the_suite_makes_of_its_results(tmp_path: Path) -> None:
    kept = ROOT / "docs" / "performance.json"
    made = _suite(tmp_path, "--page-only", "--results", str(kept))
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "docs" / "performance.md").read_text()
    assert text == kept.with_suffix(".md").read_text(), (
        "run `python -m benchmarks.suite --page-only --results docs/performance.json`"
    )
