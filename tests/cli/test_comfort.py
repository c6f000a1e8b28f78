"""What makes the command line comfortable: `watch`, `errors --open`, and ids that a shell completes."""

import json
import os
import shlex
import subprocess

import pytest
from command_line import MERGE, PEOPLE, PROGRAM, CommandLine, without_progress
from waiting import eventually


@pytest.fixture
def batch_id(cli: CommandLine) -> str:
    """The id of a batch with a rejected item."""
    (cli.folder / "people.csv").write_text(PEOPLE)
    batch = json.loads(cli("run", "people.csv", *MERGE, "--json").stdout)
    return str(batch["id"])


def test_watch_shows_a_batch_that_has_ended(cli: CommandLine, batch_id: str) -> None:
    shown, printed = cli("watch", batch_id), cli("watch", batch_id, "--json")

    assert (shown.returncode, printed.returncode) == (0, 0)
    assert batch_id in shown.stdout
    assert json.loads(printed.stdout)["status"] == "completed"
    assert cli("watch", "batch_1111111111111111111111").returncode == 2


def test_the_errors_file_is_opened_by_the_desktops_program(cli: CommandLine, batch_id: str) -> None:
    desktop = cli.folder / "desktop"
    desktop.mkdir()
    opener = desktop / "xdg-open"
    opened, draft = cli.folder / "opened", cli.folder / "opened.part"
    script = f'printf %s "$1" > {shlex.quote(str(draft))} && mv {shlex.quote(str(draft))} {shlex.quote(str(opened))}'
    opener.write_text(f"#!/bin/sh\n{script}\n")
    opener.chmod(0o755)

    done = cli("errors", batch_id, "--open", PATH=f"{desktop}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert "nowhere" in (cli.folder / f"{batch_id}-errors.csv").read_text()
    eventually(opened.exists)  # the program is not waited for
    assert opened.read_text() == f"{batch_id}-errors.csv"

    refused = cli("errors", batch_id, "--open", PATH=str(cli.folder))
    assert refused.returncode == 2
    assert without_progress(refused.stderr)[-1].startswith("error: No program opened")


def test_a_shell_completes_the_ids_of_batches(cli: CommandLine, batch_id: str) -> None:
    def completed(words: str, **changes: str) -> list[str]:
        environment = {**cli.environment, "_BATCH_PIPELINE_COMPLETE": "complete_bash", "COMP_WORDS": words, **changes}
        environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
        done = subprocess.run(
            [str(PROGRAM)], env=environment, cwd=cli.folder, capture_output=True, text=True, check=False
        )
        return done.stdout.split()

    assert batch_id in completed("batch-pipeline show batch_")
    assert completed(f"batch-pipeline retry {batch_id[:-1]}") == [batch_id]
    assert completed("batch-pipeline show batch_", BATCH_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none") == []
