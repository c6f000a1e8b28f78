"""No command is silent for long: progress on a terminal, lines elsewhere, and a message at once when interrupted."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
import typer
from batch_runs import accepted
from command_line import MERGE, PEOPLE, PROGRAM, CommandLine, batch_that_never_starts, wait_for
from interrupting import interrupt_in_callback
from waiting import eventually

from batch_pipeline.batches.facts import ArtifactProgress
from batch_pipeline.batches.ledger import Ledger
from batch_pipeline.batches.states import BatchStatus, Reason
from batch_pipeline.cli import main as entry
from batch_pipeline.cli import progress
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import batch_progress, step


class Terminal:
    """A terminal that is a command's stderr, and what was shown on it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.shown = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.shown.extend(os.read(self._ours, 4096))
            except OSError:  # all writers have closed it
                return

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join()
        os.close(self._ours)


def test_a_terminal_shows_each_step_and_stdout_holds_json_alone(
    cli: CommandLine, ledger: Ledger, organization: str
) -> None:
    terminal = Terminal()
    people = cli.file("people.csv", PEOPLE)
    # Held up until its progress has been seen, however fast it is.
    first = batch_that_never_starts(ledger, organization)
    with subprocess.Popen(
        [str(PROGRAM), "run", people, *MERGE, "--organization", organization, "--json"],
        env={**cli.environment, "TERM": "xterm"},
        cwd=cli.folder,
        stdout=subprocess.PIPE,
        stderr=terminal.theirs,
        text=True,
    ) as process:
        wait_for(lambda: b"validation" in terminal.shown, process)
        ledger.end(first, BatchStatus.failed, Reason("cancelled", "Only there to be waited for."))
        out, _ = process.communicate(timeout=120)
    terminal.close()

    assert process.returncode == 0
    batch = json.loads(out)
    assert (batch["status"], batch["stats"]["created"], batch["stats"]["rejected"]) == ("completed", 1, 1)
    assert batch == ledger.get(batch["id"]).to_json()
    steps = ("connecting to the database", "connecting to storage", "loading Dagster", "uploading people.csv")
    places = [terminal.shown.find(text.encode()) for text in (*steps, "starting the run", "validation")]
    assert -1 not in places
    assert places == sorted(places)
    assert b"Traceback" not in terminal.shown


def test_without_a_terminal_a_long_step_is_on_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_FIRST_LINE_SECONDS", 0.0)
    with step("loading\x1b[2J it"):
        printed = eventually(lambda: capsys.readouterr().err, pause=0.01)
    assert printed == "loading\\x1b[2J it …\n"


def test_writing_artifacts_is_a_step_of_its_own(
    ledger: Ledger, organization: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_FIRST_LINE_SECONDS", 0.0)
    batch = accepted(ledger.engine, organization, key="none")
    batch = ledger.begin_attempt(batch.id, f"{batch.id}-run")
    facts = batch.facts.with_artifact(ArtifactProgress("errors.csv, errors.json", 2_000, time.time(), done=1_000))
    ledger.update(batch.id, f"{batch.id}-run", work=facts.to_row())
    with batch_progress(ledger, batch.id):
        printed: list[str] = []

        def is_announced() -> bool:
            printed.append(capsys.readouterr().err)
            return "writing errors.csv, errors.json: 1,000 of 2,000 …\n" in "".join(printed)

        eventually(is_announced, pause=0.01, about=lambda: printed)
    ledger.end(batch.id, BatchStatus.failed, Reason("cancelled", "Only there to be looked at."))


def test_an_interrupt_is_announced_at_once_whatever_handler_a_library_has_installed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: None)  # as Dagster's, which acts on it later
    try:
        with stopping_in_order():
            signal.raise_signal(signal.SIGINT)
            printed = eventually(lambda: capsys.readouterr().err, pause=0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    assert printed.startswith("Interrupted: stopping")


def test_ctrl_c_during_imports_prints_one_line() -> None:
    script = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'batch_pipeline.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from batch_pipeline.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: Interrupted before the end: run the command again.\n"


def test_ctrl_c_while_python_runs_a_weak_references_callback_stops_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()

    @app.command()
    def wait() -> None:
        interrupt_in_callback()
        time.sleep(30)  # the repeated signal ends it

    monkeypatch.setattr(entry, "command_line", lambda _: app)
    with pytest.raises(SystemExit) as ended:
        entry.main([])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: Interrupted before the end: run the command again.\n"
