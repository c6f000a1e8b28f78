"""Several commands share a data directory's servers, and the last one to go, however it goes, takes them along."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from batch_pipeline.dagster_home import DAGSTER_SCHEMA
from batch_pipeline.errors import UnavailableError
from batch_pipeline.local.s3 import free_port
from batch_pipeline.local.servers import embedded_servers

USER = """
import json, sys, pathlib
from batch_pipeline.local.servers import embedded_servers
with embedded_servers(pathlib.Path(sys.argv[1])) as servers:
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

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(120) == 0


@contextmanager
def other_process(data_dir: Path) -> Iterator[OtherProcess]:
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield OtherProcess(process)
        finally:
            process.kill()


def answers(environment: dict[str, str]) -> bool:
    with psycopg.connect(environment["BATCH_DATABASE_URL"]) as connection:
        return connection.execute("SELECT true").fetchone() == (True,)


def keeper_pid(data_dir: Path) -> int:
    return int(json.loads((data_dir / "servers.json").read_text())["pid"])


def test_the_environment_names_all_that_the_package_reads(data_dir: Path) -> None:
    before = dict(os.environ)
    with embedded_servers(data_dir) as servers:
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


def test_a_second_process_joins_and_the_last_to_leave_stops_them(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with other_process(data_dir) as first:
        assert answers(first.environment)
        with embedded_servers(data_dir) as servers:
            assert servers.environment == first.environment
            first.leave()
            assert servers.running()
            assert answers(servers.environment)
        assert not servers.running()
    assert processes_of(data_dir) == []


def test_the_first_may_be_killed_while_another_uses_them(data_dir: Path) -> None:
    with other_process(data_dir) as first:
        assert answers(first.environment)
        with embedded_servers(data_dir) as servers:
            first.process.kill()
            first.process.wait()
            assert servers.running()
            assert answers(servers.environment)


def test_they_stop_when_their_only_user_is_killed_and_start_again(
    data_dir: Path, processes_of: Callable[[Path], list[str]], eventually: Callable[..., None]
) -> None:
    with other_process(data_dir) as first:
        with psycopg.connect(first.environment["BATCH_DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE kept ()")
        first.process.kill()
        first.process.wait()
        eventually(lambda: not processes_of(data_dir))
    with embedded_servers(data_dir) as servers:
        with psycopg.connect(servers.environment["BATCH_DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        assert servers.environment["AWS_SECRET_ACCESS_KEY"] == first.environment["AWS_SECRET_ACCESS_KEY"]


def test_a_killed_keeper_takes_both_servers_along_and_the_next_user_gets_new_ones(
    data_dir: Path, eventually: Callable[..., None]
) -> None:
    with embedded_servers(data_dir) as first:
        os.kill(keeper_pid(data_dir), signal.SIGKILL)
        eventually(lambda: not first.running())
        with embedded_servers(data_dir) as second:
            assert answers(second.environment)


@pytest.mark.parametrize("name", ["postgres", "rclone"])
def test_if_one_server_dies_the_other_stops_and_users_can_tell(
    data_dir: Path, eventually: Callable[..., None], name: str
) -> None:
    import psutil

    with embedded_servers(data_dir) as servers:
        keeper = psutil.Process(keeper_pid(data_dir))
        next(child for child in keeper.children() if child.name() == name).kill()
        eventually(lambda: not servers.running())
        assert "ended with code -9" in (data_dir / "logs" / "keeper.log").read_text()


def test_processes_that_start_at_once_share_one_pair_of_servers(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    with other_process(data_dir) as one, other_process(data_dir) as two:
        assert one.environment == two.environment
        assert sum("serve s3" in command for command in processes_of(data_dir)) == 1
        one.leave()
        two.leave()
    assert processes_of(data_dir) == []


def test_a_port_other_than_the_running_one_is_refused_in_one_line(data_dir: Path) -> None:
    port = free_port()
    with (
        embedded_servers(data_dir) as servers,
        pytest.raises(UnavailableError, match=rf"^the S3 server of \S+ already runs on port \d+, not {port}: "),
        embedded_servers(data_dir, s3_port=port),
    ):
        pass
    assert servers.data_dir == data_dir


def test_a_taken_port_is_reported_by_whoever_asked_and_nothing_stays(
    data_dir: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"^port {port}, "), embedded_servers(data_dir, s3_port=port):
            pass
    assert processes_of(data_dir) == []
    with embedded_servers(data_dir, s3_port=port) as servers:
        assert servers.environment["AWS_ENDPOINT_URL"].endswith(f":{port}")
