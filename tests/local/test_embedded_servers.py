"""Commands share the servers of a data directory; the command that started them stops them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import sqlalchemy
from process_table import command_of
from waiting import eventually

from batch_pipeline.dagster_home import DAGSTER_SCHEMA
from batch_pipeline.errors import SettingError
from batch_pipeline.local.servers import embedded_servers, owned_servers

USER = """
import json, sys, pathlib
from batch_pipeline.local.servers import embedded_servers
def report(line):
    if line.startswith("Waiting"):
        print(line, file=sys.stderr, flush=True)
with embedded_servers(pathlib.Path(sys.argv[1]), report=report) as servers:
    print(json.dumps(servers.environment), flush=True)
    sys.stdin.read()
"""


class OtherProcess:
    """A process that uses the servers until it is let go."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._environment: dict[str, str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        if self._environment is None:
            assert self.process.stdout is not None
            self._environment = json.loads(self.process.stdout.readline())
        return self._environment

    def end(self) -> None:
        """Lets it go on to its end."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def stderr_line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()


@contextmanager
def other_process(data_dir: Path, *, after: OtherProcess | None = None) -> Iterator[OtherProcess]:
    if after is not None:
        assert after.environment
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield OtherProcess(process)
        finally:
            process.kill()


def answers(environment: dict[str, str]) -> bool:
    with psycopg.connect(environment["BATCH_DATABASE_URL"]) as connection:
        return connection.execute("SELECT true").fetchone() == (True,)


def pid_of(data_dir: Path, name: str) -> int:
    """The server's process: the one of that program that has no other of it as parent."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == name and str(data_dir) in command_of(process):
            return process.pid
    raise AssertionError(f"no {name} in {data_dir}")


def test_the_environment_has_all_variables_that_the_package_reads(used_data_dir: Path) -> None:
    before = dict(os.environ)
    with embedded_servers(used_data_dir) as servers:
        assert set(servers.environment) >= {
            *("BATCH_DATABASE_URL", "BATCH_STORAGE_URL", "BATCH_INBOX_QUIET_SECONDS"),
            *("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"),
            *("DAGSTER_POSTGRES_URL", "DAGSTER_HOME"),
        }
        assert servers.environment["AWS_SECRET_ACCESS_KEY"] not in repr(servers)
        assert (Path(servers.environment["DAGSTER_HOME"]) / "dagster.yaml").is_file()
        assert servers.inbox == servers.storage_folder / "uploads"
        engine = sqlalchemy.create_engine(servers.environment["DAGSTER_POSTGRES_URL"])
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW search_path").scalar() == DAGSTER_SCHEMA
        engine.dispose()
        assert dict(os.environ) == before


def test_a_second_command_joins_and_the_first_waits_for_it(
    used_data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with other_process(used_data_dir) as first:
        assert answers(first.environment)
        with embedded_servers(used_data_dir) as servers:
            assert servers.environment == first.environment
            first.end()
            assert "Waiting for other commands" in first.stderr_line()
            assert first.process.poll() is None
            assert answers(servers.environment)
        first.process.wait(120)
        assert first.process.returncode == 0
    assert processes_of(used_data_dir) == []


def test_the_owner_waits_for_a_joined_command_even_after_an_error(used_data_dir: Path) -> None:
    second: OtherProcess | None = None

    def let_it_end(line: str) -> None:
        if line.startswith("Waiting") and second is not None:
            second.end()

    def fail_while_another_has_joined() -> None:
        nonlocal second
        with embedded_servers(used_data_dir, report=let_it_end) as servers:
            second = others.enter_context(other_process(used_data_dir))
            assert second.environment == servers.environment
            raise RuntimeError("mine")

    with ExitStack() as others:
        with pytest.raises(RuntimeError, match="mine"):
            fail_while_another_has_joined()
        assert second is not None
        assert second.process.wait(120) == 0


def test_a_command_that_joined_may_be_killed(used_data_dir: Path) -> None:
    with embedded_servers(used_data_dir) as servers, other_process(used_data_dir) as second:
        assert second.environment == servers.environment
        second.process.kill()
        second.process.wait()
        assert answers(servers.environment)


def test_a_killed_owner_leaves_nothing_running_and_the_next_command_starts_with_the_same_data(
    used_data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with other_process(used_data_dir) as first:
        with psycopg.connect(first.environment["BATCH_DATABASE_URL"]) as connection:
            connection.execute("DROP TABLE IF EXISTS kept")
            connection.execute("CREATE TABLE kept ()")
        first.process.kill()
        first.process.wait()
        eventually(lambda: not processes_of(used_data_dir))
    with embedded_servers(used_data_dir) as servers:
        with psycopg.connect(servers.environment["BATCH_DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        assert servers.environment["AWS_SECRET_ACCESS_KEY"] == first.environment["AWS_SECRET_ACCESS_KEY"]


def test_a_command_starts_while_one_that_joined_a_killed_owner_is_still_running(used_data_dir: Path) -> None:
    with other_process(used_data_dir) as owner, other_process(used_data_dir, after=owner) as joined:
        assert joined.environment == owner.environment
        owner.process.kill()
        owner.process.wait()
        with owned_servers(used_data_dir, s3_port=None, in_a_hurry=lambda: True) as servers:
            assert answers(servers.environment)
            assert joined.process.poll() is None


@pytest.mark.parametrize(("name", "called"), [("postgres", "PostgreSQL"), ("rclone", "the S3 server")])
def test_the_owner_sees_which_server_died(used_data_dir: Path, name: str, called: str) -> None:
    with embedded_servers(used_data_dir) as servers:
        assert servers.ended() is None
        os.kill(pid_of(used_data_dir, name), signal.SIGKILL)
        eventually(servers.ended)
        assert str(servers.ended()).startswith(f"{called} was killed by signal 9")


def test_commands_that_start_at_once_share_one_pair_of_servers(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with other_process(data_dir) as one, other_process(data_dir) as two, other_process(data_dir) as three:
        assert one.environment == two.environment == three.environment
        assert sum("serve s3" in command for command in processes_of(data_dir)) == 1
        for each in (one, two, three):
            each.end()
        for each in (one, two, three):
            assert each.process.wait(120) == 0
    assert processes_of(data_dir) == []


def test_a_command_that_must_own_the_servers_is_refused_if_another_owns_them(used_data_dir: Path) -> None:
    with (
        embedded_servers(used_data_dir) as servers,
        pytest.raises(SettingError, match=r"^Another command uses the servers of \S+: wait until .* --data-dir$"),
        owned_servers(used_data_dir, s3_port=None),
    ):
        pass
    assert servers.data_dir == used_data_dir


def test_a_port_in_use_is_reported_and_no_process_remains(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingError, match=f"^Port {port} "), owned_servers(data_dir, s3_port=port):
            pass
    assert processes_of(data_dir) == []
    with owned_servers(data_dir, s3_port=port) as servers:
        assert servers.environment["AWS_ENDPOINT_URL"].endswith(f":{port}")
