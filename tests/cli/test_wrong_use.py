"""Wrong flags, settings and files, and services that are away: one line, an exit code, nothing on stdout."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import CommandLine, only_line
from typer.core import TyperGroup
from typer.main import get_command

from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.model import UploadAction
from batch_pipeline.cli.main import command_line, main
from batch_pipeline.local.s3 import free_port
from batch_pipeline.payloads.formats import FORMATS
from batch_pipeline.records.registry import RESOURCES
from batch_pipeline.settings import get_settings

MERGE = ("--resource", "contact", "--action", "merge")
UPLOAD = "name\nAda\n"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line of a command that fails before it does anything."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, only_line(printed.err)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["run"], "FILE"),
        (["run", "people.csv", "--action", "merge"], "--resource"),
        (["run", "people.csv", "--resource", "contact"], "--action"),
        (["run", "people.csv", "--resource", "contact", "--action", "upsert"], "overwrite"),
        (["run", "people.csv", *MERGE, "--colour", "blue"], "--colour"),
        (["run", "people.csv", *MERGE, "--timeout-seconds", "soon"], "--timeout-seconds"),
        (["run", "people.csv", *MERGE, "--timeout-seconds", "0"], "timeout_seconds"),
        (["run", "people.csv", *MERGE, "--blank-cells", "drop"], "--blank-cells"),
        (["run", "people.csv", *MERGE, "--delete-limit", "lots"], "delete_limit"),
        (["submit", "people.csv", *MERGE, "--reject-limit", "lots"], "reject_limit"),
        (["run", "people.csv", *MERGE, "--default-region", "ZZ"], "ZZ"),
        (["run", "people.csv", *MERGE, "--name", "ab"], "name"),
        (["run", "people.csv", *MERGE, "--property", "notes"], "--property name=value"),
        (["run", "people.csv", *MERGE, "--map", "name=A", "--map", "name=B"], "--map is given twice for name"),
        (["run", "people.csv", *MERGE, "--map", "name=A", "--map", "email=A"], "'A'"),
        (["run", "people.csv", "--resource", "person", "--action", "merge"], "contact"),
        (["run", "missing.csv", *MERGE], "missing.csv"),
        (["run", "", *MERGE], "empty"),
        (["run", ".", *MERGE], "folder"),
        (["run", os.devnull, *MERGE], "regular"),
        (["run", "with\x00nul.csv", *MERGE], "\\x00"),
        (["run", "with\x1b[31mescape.csv", *MERGE], "with\\x1b[31mescape.csv"),
        (["run", "x" * 300, *MERGE], "too long"),
        (["list", "--status", "done"], "timed_out"),
        (["list", "--limit", "0"], "--limit"),
        (["list", "--resource", "person"], "contact"),
        (["list", "--action", "upsert"], "overwrite"),
        (["list", "--since", "yesterday"], "2026-03-31"),
        (["errors", "batch_1", "--format", "xml"], "--format"),
        (["organizations", "create"], "'name'"),
        (["retry"], "--status"),
        (["retry", "batch_1", "--status", "failed"], "either"),
        (["retry", "batch_1", "--since", "2h"], "--status"),
        (["retry", "batch_1", "--resource", "contact"], "--status"),
        (["retry", "--status", "failed", "--failed-rows"], "ID"),
        (["retry", "--status", "completed"], "timed_out"),
        (["retry", "--status", "failed", "--resource", "person"], "contact"),
        (["retry", "--status", "failed", "--since", "yesterday"], "2026-03-31"),
        (["retry", "--status", "failed", "--since", "2026-02-30"], "2026-03-31"),
        (["retry", "--status", "failed", "--since", "999999w"], "2026-03-31"),
        (["retry", "--status", "failed", "--since", "2999-01-01"], "in the future"),
        (["cancel"], "ID"),
    ],
)
def test_wrong_flags_and_files_are_reported_in_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").write_text(UPLOAD)

    code, line = error_of(capsys, *arguments)

    assert code == 2
    assert named in line
    assert [path.name for path in tmp_path.iterdir()] == ["people.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "secret.csv"
    file.touch(mode=0)
    assert error_of(capsys, "run", str(file), *MERGE)[0] == 2


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"BATCH_DATABASE_URL": "mysql://u:pa55word@h/x"}, "BATCH_DATABASE_URL"),
        ({"BATCH_DATABASE_URL": "postgresql://u:pa55word@h/x?nonsense=1"}, "BATCH_DATABASE_URL"),
        ({"BATCH_STORAGE_URL": "https://bucket"}, "BATCH_STORAGE_URL"),
        ({"BATCH_STORAGE_URL": None}, "BATCH_STORAGE_URL"),
        ({"BATCH_DATABASE_URL": None}, "BATCH_DATABASE_URL"),
        ({"BATCH_CHUNK_ROWS": "many"}, "BATCH_CHUNK_ROWS"),
    ],
)
def test_a_wrong_setting_is_named_without_its_secret(
    variables: dict[str, str | None],
    named: str,
    deployment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**deployment, **variables}.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    try:
        code, line = error_of(capsys, "list")
    finally:
        get_settings.cache_clear()

    assert code == 2
    assert named in line
    assert "pa55word" not in line


def test_wrong_names_of_batches_and_organizations_are_reported(
    cli: CommandLine, organization: str, ledger: Ledger
) -> None:
    upload = cli.file("people.csv", UPLOAD)
    for arguments, named in (
        (["show", "batch_1"], "batch_1"),
        (["run", upload, *MERGE, "--organization", "nobody"], "organizations create"),
        (["organizations", "create", organization], "exists"),
    ):
        ended = cli(*arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert named in only_line(ended.stderr)
    assert ledger.find(organization_id=organization) == []


def test_an_unavailable_database_is_reported_in_one_line(cli: CommandLine) -> None:
    upload = cli.file("people.csv", UPLOAD)
    away = f"postgresql://u:pa55word@127.0.0.1:{free_port()}/x"
    for arguments in (["list"], ["run", upload, *MERGE]):
        ended = cli(*arguments, BATCH_DATABASE_URL=away)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert "BATCH_DATABASE_URL" in only_line(ended.stderr)
        assert "pa55word" not in ended.stderr


def test_an_unavailable_dagster_database_is_reported_in_one_line(cli: CommandLine, organization: str) -> None:
    ended = cli(
        "run",
        cli.file("people.csv", UPLOAD),
        *MERGE,
        "--organization",
        organization,
        DAGSTER_POSTGRES_URL=f"postgresql+psycopg2://u:pa55word@127.0.0.1:{free_port()}/x",
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "DAGSTER_POSTGRES_URL" in only_line(ended.stderr)
    assert "pa55word" not in ended.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:{port}"},
        {"BATCH_STORAGE_URL": "s3://no-such-bucket/x"},
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
    ],
)
def test_unavailable_storage_is_reported_in_one_line_and_leaves_no_batch(
    changes: dict[str, str], cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    changes = {name: value.format(port=free_port()) for name, value in changes.items()}
    ended = cli("run", cli.file("people.csv", UPLOAD), *MERGE, "--organization", organization, **changes)

    assert (ended.returncode, ended.stdout) == (3, "")
    assert "BATCH_STORAGE_URL" in only_line(ended.stderr)
    assert ledger.find(organization_id=organization) == []


def test_help_names_every_resource_action_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "submit"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        words = re.findall(r"\w+", capsys.readouterr().out)
        for name in (*RESOURCES, *UploadAction, *(name.upper() for name in FORMATS), "gzip", "zstd"):
            assert name in words


def test_help_lists_the_exit_codes_and_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Exit codes: 0 done; 1 " in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"batch-pipeline {version('batch-pipeline')}\n")


def test_each_command_has_the_help_that_it_has_among_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    every = get_command(command_line())
    assert isinstance(every, TyperGroup)
    for name, command in every.commands.items():
        alone = get_command(command_line(name))
        assert isinstance(alone, TyperGroup)
        assert len(alone.commands) < 5, name
        texts = []
        for each in (command, alone.commands[name]):
            with pytest.raises(SystemExit):
                each.main(["--help"], prog_name=name)
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1]


def test_commands_that_read_import_neither_dagster_nor_what_other_commands_need(cli: CommandLine) -> None:
    unneeded = {"dagster", "alembic", "pandas", "pandera", "pyarrow", "s3fs", "phonenumbers", "rich.progress"}
    others = {"batch_pipeline.cli.running", "batch_pipeline.cli.webhooks"}
    for arguments, modules in (["--help"], unneeded), (["list"], unneeded | others):
        script = (
            "import sys\nfrom batch_pipeline.cli.main import main\n"
            f"try:\n    main({arguments!r})\nexcept SystemExit as ended:\n    assert not ended.code\n"
            f"loaded = {modules!r} & set(sys.modules)\nassert not loaded, loaded\n"
        )
        ended = subprocess.run(
            [sys.executable, "-c", script], env=cli.environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
