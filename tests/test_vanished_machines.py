"""A machine that vanishes does not even close its connections: its locks are free within a minute all the same."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from folders import server_folder

from batch_pipeline.batches.locks import Ownership, is_owned
from batch_pipeline.dagster_home import dagster_database_url
from batch_pipeline.database import connect, create_engine
from batch_pipeline.local import postgres
from batch_pipeline.local.postgres import EmbeddedPostgres
from batch_pipeline.local.s3 import free_port

CONTRACT_SECONDS = 60.0
HOLD = """
import sys, time
from batch_pipeline.batches.locks import Ownership
from batch_pipeline.database import create_engine
ownership = Ownership(create_engine(sys.argv[1]))
ownership.take("batch")
print("held", flush=True)
time.sleep(600)
"""

needs_namespaces = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="making a network namespace takes root and iproute2"
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a PostgreSQL server that listens on TCP."""
    folder = server_folder()
    chosen = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(postgres.SERVER_SETTINGS, "listen_addresses", "*")
        patch.setitem(postgres.SERVER_SETTINGS, "port", str(chosen))
        patch.setenv("PGPORT", str(chosen))
        server = EmbeddedPostgres(folder / "postgres")
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            (hba,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            with Path(hba).open("a") as file:
                file.write("host all all 10.213.0.0/16 trust\n")
            connection.execute("SELECT pg_reload_conf()")
    yield chosen
    server.stop()
    shutil.rmtree(folder)


def url(port: int, host: str = "127.0.0.1") -> str:
    return f"postgresql://{postgres.ROLE}@{host}:{port}/{postgres.DATABASE}"


def test_both_sides_of_every_connection_probe_a_silent_peer(port: int) -> None:
    expected = {"idle": "20", "interval": "5", "count": "3"}
    names = [*(f"tcp_keepalives_{name}" for name in expected), "tcp_user_timeout"]
    query = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
    ours, dagsters = create_engine(url(port)), sa.create_engine(dagster_database_url(url(port)))
    with connect(url(port)) as direct, ours.connect() as pooled, dagsters.connect() as dagster:
        for found in (
            direct.execute(query).fetchone(),
            pooled.exec_driver_sql(query).one(),
            dagster.exec_driver_sql(query).one(),
        ):
            assert tuple(found or ()) == (*expected.values(), "30000")
        parameters = direct.info.get_parameters()
        assert {name: parameters[f"keepalives_{name}"] for name in expected} == expected
        psycopg2_connection = dagster.connection.dbapi_connection
        assert psycopg2_connection is not None
        assert psycopg2_connection.get_dsn_parameters()["keepalives_idle"] == "20"
    ours.dispose()
    dagsters.dispose()


@contextmanager
def other_machine() -> Iterator[tuple[str, str]]:
    """A network namespace that reaches this one: its name, and the address of this one there."""
    number = secrets.randbelow(2**14)
    name, here, there = f"bp{number}", f"bph{number}", f"bpt{number}"
    network = f"10.213.{number // 64}.{number % 64 * 4}"
    first, second = (f"{network.rsplit('.', 1)[0]}.{int(network.rsplit('.', 1)[1]) + offset}" for offset in (1, 2))

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        ip("addr", "add", f"{first}/30", "dev", here)
        ip("link", "set", here, "up")
        ip("-n", name, "addr", "add", f"{second}/30", "dev", there)
        ip("-n", name, "link", "set", there, "up")
        yield name, first
    finally:
        ip("netns", "del", name)  # and the pair of devices with it


@needs_namespaces
@pytest.mark.timeout(200)
def test_the_lock_of_a_machine_that_vanished_is_free_within_a_minute(port: int) -> None:
    with other_machine() as (name, here), connect(url(port), autocommit=True) as connection:
        command = ["ip", "netns", "exec", name, sys.executable, "-c", HOLD, url(port, here)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            assert is_owned(connection, "batch")
            subprocess.run(["ip", "-n", name, "link", "set", f"bpt{name[2:]}", "down"], check=True)
            gone_at = time.monotonic()
            while is_owned(connection, "batch"):
                assert time.monotonic() - gone_at < CONTRACT_SECONDS
                time.sleep(0.2)
            with Ownership(create_engine(url(port))) as successor:
                successor.take("batch")
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
