"""Measures the same work done by hand in psql: COPY into a temporary table and one statement (two for overwrite).

The upsert sets `batch_id` as well: an update that leaves it is a change from outside, which a trigger logs row by row.
"""

from pathlib import Path

from batch_pipeline.local.postgres_files import postgres_program
from benchmarks.suite.files import COLUMNS
from benchmarks.suite.model import Sample
from benchmarks.suite.processes import measure_command
from benchmarks.suite.world import ORGANIZATION

_NAMES = ", ".join(["id", *COLUMNS])
_TYPES = ", ".join(f"{name} {'boolean' if name == 'is_primary' else 'text'}" for name in ["id", *COLUMNS])
_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in ["batch_id", *COLUMNS])


def upsert(url: str, file: Path) -> Sample:
    """Loads a file with ids."""
    return _script(url, _upsert(file))


def overwrite(url: str, file: Path) -> Sample:
    """Loads a file with ids, and deletes the contacts that it does not have."""
    gone = f"""
        DELETE FROM contacts c WHERE organization_id = '{ORGANIZATION}'
            AND NOT EXISTS (SELECT FROM upload u WHERE u.external_id = c.external_id);
    """  # noqa: S608 - constants of the suite
    return _script(url, _upsert(file) + gone)


def delete(url: str, file: Path) -> Sample:
    """Deletes the contacts of a file of ids."""
    return _script(
        url,
        f"""
        CREATE TEMPORARY TABLE upload (id text);
        \\copy upload FROM '{file}' WITH (FORMAT csv, HEADER)
        DELETE FROM contacts c USING upload u WHERE c.organization_id = '{ORGANIZATION}' AND c.id = u.id;
        """,  # noqa: S608 - constants of the suite
    )


def _upsert(file: Path) -> str:
    return f"""
        CREATE TEMPORARY TABLE upload ({_TYPES});
        \\copy upload ({_NAMES}) FROM '{file}' WITH (FORMAT csv, HEADER)
        INSERT INTO contacts (organization_id, batch_id, {_NAMES})
        SELECT '{ORGANIZATION}', 'psql', {_NAMES} FROM upload
        ON CONFLICT (organization_id, external_id) WHERE external_id IS NOT NULL DO UPDATE SET {_UPDATES};
    """  # noqa: S608 - constants of the suite


def _script(url: str, script: str) -> Sample:
    command = [str(postgres_program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", url]
    return measure_command(command, database_url=url, script=script)[0]
