"""The tables and pages of the documentation match the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline.batches.options import OPTION_NAMES
from batch_pipeline.cli.main import command_line
from batch_pipeline.records import describe, table_columns
from batch_pipeline.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _table(heading: str) -> dict[str, str]:
    """First column (without code marks) -> second column of the first table under the heading."""
    section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip().strip("`"): row[1].strip() for row in rows}


def test_the_settings_table_names_every_setting_and_its_default() -> None:
    described = _table("Settings")
    defaults = {f"BATCH_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    assert list(described) == list(defaults)
    for name, default in defaults.items():
        if default is not None:
            assert described[name] == ("on" if default is True else str(default))


def test_the_options_table_names_every_option() -> None:
    assert tuple(_table("Options of a batch")) == OPTION_NAMES


def test_the_command_table_names_every_command() -> None:
    app = command_line()
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    groups = {group.name for group in app.registered_groups}
    assert set(_table("Command line")) == commands | groups


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_and_images_of_each_page_exist(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / page.parent / target).exists()] == []


def test_the_index_of_decisions_has_each_record_with_its_title_and_its_parts() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| \[\d+\]\(([^)]+)\) \| (.+) \|$", index, re.MULTILINE))
    assert set(listed) == {path.name for path in folder.glob("*.md")} - {"README.md"}
    for name, title in listed.items():
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        headings = [line for line in lines if line.startswith("#")]
        assert headings == [f"# {title}", "## Context", "## Decision", "## Consequences", "## Evidence"], name


def test_the_columns_that_dagster_shows_are_those_of_the_resources() -> None:
    text = table_columns.FILE.read_text(encoding="utf-8")
    assert text == table_columns.columns_text(), "run `python -m batch_pipeline.records.table_columns`"


def test_the_page_of_each_resource_is_what_its_schema_gives() -> None:
    outdated = [
        name
        for name, text in describe.pages().items()
        if not (page := ROOT / "docs" / name).is_file() or page.read_text(encoding="utf-8") != text
    ]
    assert outdated == [], f"docs/ lacks these pages, or has them as they were: run `{describe.GENERATOR}`"


def test_the_generator_writes_the_pages(tmp_path: Path) -> None:
    arguments = describe.GENERATOR.split()
    assert arguments[:3] == ["python", "-m", describe.__name__]
    made = subprocess.run([sys.executable, *arguments[1:3], str(tmp_path)], capture_output=True, text=True, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(describe.pages())
    assert made.stdout.split() == [str(tmp_path / name) for name in describe.pages()]
