"""The embedded PostgreSQL starts, stops, survives crashes, and does not change other users' folders."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import LiteralString

import psutil
import psycopg
import pytest
from waiting import eventually

from batch_pipeline.errors import UnavailableError
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.local.postgres_files import SOCKET_PATH_BYTES, postgres_program

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what only root could do wrong")


@pytest.fixture
def postgres(used_data_dir: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(used_data_dir)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def running_postgres(session_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A server shared by the tests that leave it running."""
    server = EmbeddedPostgres(session_folder / "embedded-postgres")
    server.start()
    yield server
    server.stop()


def fetch(url: str, query: LiteralString) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def write_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")  # that of another test
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (7)")


def test_it_is_postgresql_18_with_durability_on_and_no_tcp_port(running_postgres: EmbeddedPostgres) -> None:
    url = running_postgres.url
    assert int(str(fetch(url, "SHOW server_version_num"))) // 10_000 == 18
    settings = ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "server_encoding")
    assert [fetch(url, f"SHOW {name}") for name in settings] == ["on", "on", "on", "", "UTF8"]


def test_text_sorts_by_code_point_on_every_machine(running_postgres: EmbeddedPostgres) -> None:
    url = running_postgres.url
    assert fetch(url, "SELECT string_agg(x, '' ORDER BY x) FROM unnest(ARRAY['b','Z','a','é']) x") == "Zabé"
    assert fetch(url, "SELECT upper('é')") == "É"


def test_rows_survive_a_stop_and_a_second_start(
    postgres: EmbeddedPostgres, processes_of: Callable[[Path], list[str]]
) -> None:
    write_row(postgres.start())
    postgres.stop()
    assert processes_of(postgres.data_dir) == []
    assert fetch(postgres.start(), "SELECT id FROM kept") == 7


def test_rows_survive_the_death_of_the_postmaster(postgres: EmbeddedPostgres) -> None:
    write_row(postgres.start())
    assert postgres.process is not None
    postgres.process.kill()
    postgres.process.wait()
    postgres.stop()
    assert fetch(postgres.start(), "SELECT id FROM kept") == 7


def test_a_killed_owner_takes_the_server_with_it_and_the_next_one_starts(postgres: EmbeddedPostgres) -> None:
    script = (
        "import sys, pathlib; from batch_pipeline.local.postgres import EmbeddedPostgres;"
        "print(EmbeddedPostgres(pathlib.Path(sys.argv[1])).start(), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(postgres.data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        write_row(url)
        with psycopg.connect(url) as connection:
            server_pid = connection.info.backend_pid
            owner.kill()
            eventually(lambda: not psutil.pid_exists(server_pid))
    assert fetch(postgres.start(), "SELECT id FROM kept") == 7


def test_a_stale_pid_file_that_names_a_living_process_does_not_keep_it_from_starting(
    postgres: EmbeddedPostgres,
) -> None:
    url = postgres.start()
    data = Path(str(fetch(url, "SHOW data_directory")))
    postgres.stop()
    other = "nobody" if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=other) as innocent:
        (data / "postmaster.pid").write_text(f"{innocent.pid}\n{data}\n0\n5432\n{data}\n\n  0 0\nready   \n")
        try:
            assert fetch(postgres.start(), "SELECT 1") == 1
            assert innocent.poll() is None
        finally:
            innocent.kill()


def test_a_second_owner_is_refused_in_one_line(running_postgres: EmbeddedPostgres) -> None:
    with pytest.raises(UnavailableError, match=r"^another process runs the PostgreSQL of \S+: .+$"):
        EmbeddedPostgres(running_postgres.data_dir).start()
    assert fetch(running_postgres.url, "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why_in_one_line(postgres: EmbeddedPostgres) -> None:
    settings = Path(str(fetch(postgres.start(), "SHOW data_directory"))) / "postgresql.auto.conf"
    postgres.stop()
    before = settings.read_text()
    settings.write_text(f"{before}no_such_setting = 1\n")
    with pytest.raises(UnavailableError) as caught:
        postgres.start()
    settings.write_text(before)
    assert "FATAL" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["x" * (SOCKET_PATH_BYTES + 20), 'a b, "c" 100% ü'])
def test_any_path_can_hold_the_data(open_folder: Path, name: str) -> None:
    server = EmbeddedPostgres(open_folder / name)
    try:
        assert fetch(server.start(), "SELECT 1") == 1
    finally:
        server.stop()


def test_other_users_cannot_reach_the_socket(running_postgres: EmbeddedPostgres) -> None:
    folder = Path(str(fetch(running_postgres.url, "SHOW unix_socket_directories")).strip('"'))
    assert stat.S_IMODE(folder.stat().st_mode) & 0o027 == 0


def test_psql_of_the_wheel_speaks_to_it(running_postgres: EmbeddedPostgres) -> None:
    command = [str(postgres_program("psql")), running_postgres.url, "-Atc", "SELECT 6 * 7"]
    assert subprocess.check_output(command, text=True).strip() == "42"


def test_sigterm_to_the_owner_does_not_reach_the_server(running_postgres: EmbeddedPostgres) -> None:
    assert running_postgres.process is not None
    # A session of its own: a terminal's Ctrl-C does not reach it before its owner has decided on the order.
    assert os.getsid(running_postgres.process.pid) == running_postgres.process.pid
    assert os.getsid(0) != running_postgres.process.pid


@as_root
def test_root_leaves_the_modes_of_folders_alone_and_keeps_the_data_elsewhere(
    tmp_path: Path, processes_of: Callable[[Path], list[str]]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    above = [closed, *closed.parents]
    before = [stat.S_IMODE(folder.stat().st_mode) for folder in above]
    server = EmbeddedPostgres(closed / "data")
    try:
        write_row(server.start())
        elsewhere = Path((closed / "data" / "postgres.location").read_text().strip())
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o711
        server.stop()
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in above] == before
        assert processes_of(elsewhere) == []
        assert fetch(server.start(), "SELECT id FROM kept") == 7
    finally:
        server.stop()
        remove_tree(elsewhere)


@as_root
def test_a_recreated_data_directory_does_not_get_the_old_rows(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "data")
    try:
        write_row(server.start())
        elsewhere = Path((closed / "data" / "postgres.location").read_text().strip())
        server.stop()
        remove_tree(closed / "data")
        assert fetch(server.start(), "SELECT to_regclass('kept')") is None
    finally:
        server.stop()
        remove_tree(elsewhere)


@as_root
def test_the_server_does_not_run_as_root(running_postgres: EmbeddedPostgres) -> None:
    assert running_postgres.process is not None
    ids = psutil.Process(running_postgres.process.pid).uids()
    assert 0 not in {ids.real, ids.effective, ids.saved}


def remove_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


def test_stop_is_idempotent_and_allowed_before_start(postgres: EmbeddedPostgres) -> None:
    postgres.stop()
    postgres.start()
    postgres.stop()
    postgres.stop()


def test_open_sessions_do_not_delay_a_stop(postgres: EmbeddedPostgres) -> None:
    url = postgres.start()
    assert postgres.process is not None
    process = postgres.process
    with psycopg.connect(url) as connection:
        postgres.stop()
        assert process.returncode == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_the_death_signal_is_a_clean_stop(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    assert postgres.process is not None
    postgres.process.send_signal(signal.SIGINT)
    assert postgres.process.wait(120) == 0
