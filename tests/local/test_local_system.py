"""``up`` as a whole: it answers, watches over its parts, and leaves nothing behind, however it ends."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from process_table import command_of
from waiting import eventually

from batch_pipeline.cli.main import main
from batch_pipeline.errors import SettingError
from batch_pipeline.local.connecting import connected
from batch_pipeline.local.inbox_folders import rename_undecodable
from batch_pipeline.local.s3 import HOST, free_port
from batch_pipeline.local.system import local_system
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.orchestration.reconciling import reconcile
from batch_pipeline.settings import get_settings
from batch_pipeline.system import open_system

PROGRAM = Path(sys.executable).with_name("batch-pipeline")
PATIENCE_SECONDS = 180.0


@pytest.fixture(autouse=True)
def settings_read_anew() -> Iterator[None]:
    """Settings are read once in a process; tests here change what they are read from."""
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


class Up:
    """A running `batch-pipeline up`, with the lines that it printed."""

    def __init__(self, process: "subprocess.Popen[str]", data_dir: Path, flags: Sequence[str]) -> None:
        self.process = process
        self.data_dir = data_dir
        self.flags = flags
        _, port, _, api_port, *_ = flags
        self.url, self.api_url = f"http://{HOST}:{port}", f"http://{HOST}:{api_port}"
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def wait_for(self, text: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        def is_printed() -> bool:
            if any(text in line for line in self.lines):
                return True
            assert self.process.poll() is None, self.lines
            return False

        eventually(is_printed, seconds=seconds, about=lambda: self.lines)

    def ended(self) -> int:
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def child(self, part: str) -> psutil.Process:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if part in command_of(child))

    @property
    def database_url(self) -> str:
        return str(json.loads((self.data_dir / "servers.json").read_text())["database_url"])


SERVERS = ("/postgres", "postgres:", "rclone")  # they outlive the services


@contextmanager
def up(data_dir: Path, *more: str) -> Iterator[Up]:
    flags = [word for name in ("--port", "--api-port", "--s3-port") for word in (name, str(free_port()))]
    hidden = ("BATCH_", "DAGSTER_", "AWS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    with subprocess.Popen(
        [PROGRAM, "up", "--data-dir", str(data_dir), *flags, *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "BATCH_INBOX_QUIET_SECONDS": "0"},
    ) as process:
        system = Up(process, data_dir, flags)
        try:
            system.wait_for("Ctrl-C stops it")
            yield system
        finally:
            process.kill()
            process.wait()


@pytest.mark.timeout(900)
def test_the_system_starts_again_after_its_own_death_and_that_of_a_part_and_ends_in_order_on_signals(
    data_dir: Path,
    processes_of: Callable[[Path], list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each start takes many seconds, so one data directory goes through all ends, twice with a batch at work."""
    monkeypatch.setenv("BATCH_RERUN_PAUSE_SECONDS", "0.1")  # of the batch that this process finds dead
    with up(data_dir) as system:
        with blocked_batch(system, "killed.csv") as pids:
            system.process.send_signal(signal.SIGKILL)
        assert system.ended() == -signal.SIGKILL
        eventually(lambda: not processes_of(data_dir))
        eventually(lambda: not any(map(alive, pids)))
    assert reason_of_the_batch(data_dir, monkeypatch, "killed.csv", reconciles=True) == "worker_lost"

    with up(data_dir) as system:
        with psycopg.connect(system.database_url, autocommit=True) as looking:
            completed = "SELECT status = 'completed' FROM batches WHERE name = 'killed.csv'"
            eventually(lambda: looking.execute(completed).fetchone() == (True,), seconds=PATIENCE_SECONDS)
        system.child("/postgres").kill()  # which all other parts need
        system.wait_for("PostgreSQL was killed by signal 9", seconds=10.0)
        assert system.ended() == 1
    last = [line for line in system.lines if line][-1]
    assert last.startswith("error: PostgreSQL was killed by signal 9")
    assert last.endswith("start `batch-pipeline up` again")
    assert processes_of(data_dir) == []

    has_redis = shutil.which("redis-server", path=f"{PROGRAM.parent}:{os.environ['PATH']}") is not None
    with up(data_dir, "--workers", str(int(has_redis))) as system:
        answers_and_refuses_a_second_one(system, processes_of, capsys, has_redis=has_redis)
        # A batch that never ends: the first signal waits for it, the second one kills it.
        with blocked_batch(system, "people.csv") as pids:
            undecodable = os.fsencode(data_dir / "s3/batch/uploads/default/contact/merge") + b"/caf\xe9.csv"
            private = os.open(undecodable, os.O_WRONLY | os.O_CREAT, 0o600)  # it may still be there at the end
            with open(private, "w") as file:
                file.write("name\nAda\n")
            system.wait_for("renamed default/contact/merge/caf\\xe9.csv to caf_.csv")
            system.process.send_signal(signal.SIGTERM)
            system.wait_for("Stopping", seconds=2.0)
            system.wait_for("running batches have ended")
            children = psutil.Process(system.process.pid).children(recursive=True)
            services = [child.pid for child in children if not any(part in command_of(child) for part in SERVERS)]
            system.process.send_signal(signal.SIGINT)
            eventually(lambda: not any(map(alive, services)))  # once it can write, a batch ends within milliseconds
        assert system.ended() == 0
    assert processes_of(data_dir) == []
    assert list(data_dir.glob("socket-*")) == []
    eventually(lambda: not any(map(alive, pids)))
    assert reason_of_the_batch(data_dir, monkeypatch, "people.csv", reconciles=False) == "worker_lost"


def answers_and_refuses_a_second_one(
    system: Up, processes_of: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str], *, has_redis: bool
) -> None:
    """The running system shows where it is and hides its secrets; another of its folder or ports is refused."""

    def refused(*flags: str) -> str:
        """The one line of a second `up`; on a busy machine it shows before that it loads."""
        with pytest.raises(SystemExit) as ended:
            main(["up", *flags])
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out) == (2, "")
        *loading, line = printed.err.splitlines()
        assert set(loading) <= {"preparing the local system …"}
        return str(line)

    data_dir = system.data_dir
    shown = "\n".join(system.lines)
    key = data_dir / "api-key"
    for part in (system.url, system.api_url, key.read_text().strip(), "data/s3/batch/uploads/"):
        assert part in shown
    assert key.stat().st_mode & 0o077 == 0
    with urllib.request.urlopen(f"{system.url}/server_info", timeout=120) as answer:  # noqa: S310 - http, the test's own
        assert answer.status == 200
    commands = processes_of(data_dir)
    for part in ("redis-server", "--name worker-1@") if has_redis else ():
        assert any(part in command for command in commands), part
    secret = (data_dir / "s3.keys.json").read_text().split('"')[-2]
    assert not any(secret in command for command in commands)
    running = rf"The local system of \S+ is already running \(.*{system.url}, .*{system.api_url}\): end .*--data-dir"
    assert re.search(running, refused("--data-dir", str(data_dir)))
    assert "--port" in refused("--data-dir", str(data_dir.with_name("other")), *system.flags)


@contextmanager
def blocked_batch(system: Up, name: str) -> Iterator[list[int]]:
    """A batch of this name can't write, within. Gives the ids of the system's processes."""
    # Closed, not committed: the server may be gone by then.
    with closing(psycopg.connect(system.database_url)) as blocking:
        blocking.execute("LOCK TABLE contacts IN ACCESS EXCLUSIVE MODE")
        file = system.data_dir / name
        file.write_text("name\nAda\n")
        file.rename(system.data_dir / "s3/batch/uploads/default/contact/merge" / name)  # whole from the first look on
        waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"
        with psycopg.connect(system.database_url, autocommit=True) as looking:
            eventually(lambda: looking.execute(waiting).fetchone() == (True,), seconds=PATIENCE_SECONDS)
        yield [child.pid for child in psutil.Process(system.process.pid).children(recursive=True)]


def reason_of_the_batch(data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, reconciles: bool) -> str:
    """Why the only batch of this name has failed; looks at the files of the ended system as well."""
    for variable in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with connected(data_dir), open_system() as opened:
        if reconciles:
            with open_instance() as instance:
                reconcile(opened, instance)
        [batch] = [batch for batch in opened.ledger.find() if batch.name == name]
    assert batch.reason is not None
    assert batch.status == "failed"
    assert readable_by_others(data_dir) == []
    return batch.reason.code


def readable_by_others(data_dir: Path) -> list[str]:
    """What of the data directory others than its owner may read, list or write; who may pass through is no matter."""
    found = []
    for path in (data_dir, *data_dir.rglob("*")):
        mode = path.lstat().st_mode
        # PostgreSQL makes its socket open to all; its folder is closed.
        if not stat.S_ISSOCK(mode) and mode & (0o066 if path == data_dir else 0o027 if is_postgres(path) else 0o077):
            found.append(f"{path} {stat.filemode(mode)}")
    return found


def is_postgres(path: Path) -> bool:
    """Root's own group may pass through the folder of the server's account."""
    return os.geteuid() == 0 and path.name == "postgres"


@pytest.mark.parametrize(("name", "flag"), [("port", "--port"), ("api_port", "--api-port"), ("s3_port", "--s3-port")])
def test_a_taken_port_is_found_before_anything_starts(
    data_dir: Path, name: str, flag: str, processes_of: Callable[[Path], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server((HOST, 0)) as other:
        ports = {each: free_port() for each in ("port", "api_port", "s3_port")} | {name: other.getsockname()[1]}
        with pytest.raises(SettingError, match=f"^Port {ports[name]} .*{flag}$"), local_system(data_dir, **ports):
            pass
    assert processes_of(data_dir) == []
    assert not (data_dir / "postgres").exists()


def test_only_names_that_are_not_utf8_are_renamed_once_their_files_are_quiet(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    folder = os.path.join(root, b"contact\xff/merge")
    os.makedirs(folder)
    kept = ["plain.csv", "caf\u00e9.csv", "control\x07.csv"]
    old = [b"caf\xe9.csv", b"caf\xe9.csv.options.json", *map(os.fsencode, kept)]
    for name in (*old, b"growing\xe9.csv"):
        with open(os.path.join(folder, name), "wb"):
            pass
    for name in old:
        os.utime(os.path.join(folder, name), (1, 1))

    lines = rename_undecodable(tmp_path, quiet_seconds=60)

    assert len(lines) == 3
    assert "contact\\xff/merge/caf\\xe9.csv to caf_.csv" in lines[1]
    left = sorted(os.listdir(tmp_path / "contact_" / "merge"))
    assert left == sorted([*kept, "caf_.csv", "caf_.csv.options.json", os.fsdecode(b"growing\xe9.csv")])
    assert rename_undecodable(tmp_path, quiet_seconds=60) == []


def test_a_name_that_is_in_use_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "caf_.csv").write_text("first")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv")).write_text("second")
    assert rename_undecodable(tmp_path, quiet_seconds=0) == []
    (tmp_path / "caf_.csv").unlink()
    assert len(rename_undecodable(tmp_path, quiet_seconds=0)) == 1
    assert (tmp_path / "caf_.csv").read_text() == "second"


def test_configured_servers_are_used_and_none_is_started(
    data_dir: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    with connected(data_dir) as servers:
        assert servers is None
        assert os.environ["DAGSTER_POSTGRES_URL"] == environment["DAGSTER_POSTGRES_URL"]
        assert get_settings().require_storage_url() == environment["BATCH_STORAGE_URL"]
    assert "DAGSTER_POSTGRES_URL" not in os.environ
    assert not data_dir.exists()


def test_only_one_of_the_two_settings_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_DATABASE_URL", "postgresql://u@h/db")
    monkeypatch.delenv("BATCH_STORAGE_URL", raising=False)
    with pytest.raises(SettingError, match=r"^BATCH_STORAGE_URL is not set"), connected(data_dir):
        pass


def test_without_settings_this_process_uses_the_embedded_servers(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with connected(data_dir) as servers:
        assert servers is not None
        assert get_settings().require_database_url() == servers.environment["BATCH_DATABASE_URL"]
        assert get_settings().inbox_quiet_seconds == 2
    assert dict(os.environ) == before


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
