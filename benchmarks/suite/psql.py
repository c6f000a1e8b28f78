"""Measures the same work done by hand in psql: COPY into a temporary table and one statement (two for overwrite).

The upsert sets `batch_id` as well: an update that leaves it is a change from outside, which a trigger logs row by row.
"""

from pathlib import Path

from psycopg import sql

from batch_pipeline.local.postgres_files import postgres_program
from benchmarks.suite.files import COLUMNS
from benchmarks.suite.model import Sample
from benchmarks.suite.processes import measure_command
from benchmarks.suite.world import ORGANIZATION

_UPSERT = """
    CREATE TEMPORARY TABLE upload ({types});
    \\copy upload ({names}) FROM {file} WITH (FORMAT csv, HEADER)
    INSERT INTO contacts (organization_id, batch_id, {names})
    SELECT {organization}, 'psql', {names} FROM upload
    ON CONFLICT (organization_id, external_id) WHERE external_id IS NOT NULL DO UPDATE SET {updates};
"""
_DELETE_OTHERS = """
    DELETE FROM contacts c WHERE organization_id = {organization}
        AND NOT EXISTS (SELECT FROM upload u WHERE u.external_id = c.external_id);
"""
_DELETE = """
    CREATE TEMPORARY TABLE upload (id text);
    \\copy upload FROM {file} WITH (FORMAT csv, HEADER)
    DELETE FROM contacts c USING upload u WHERE c.organization_id = {organization} AND c.id = u.id;
"""
_COLUMNS = ("id", *COLUMNS)


def upsert(url: str, file: Path) -> Sample:
    """Loads a file with ids."""
    return _script(url, sql.SQL(_UPSERT), file)


def overwrite(url: str, file: Path) -> Sample:
    """Loads a file with ids, and deletes the contacts that it does not have."""
    return _script(url, sql.SQL(_UPSERT + _DELETE_OTHERS), file)


def delete(url: str, file: Path) -> Sample:
    """Deletes the contacts of a file of ids."""
    return _script(url, sql.SQL(_DELETE), file)


def _script(url: str, template: sql.SQL, file: Path) -> Sample:
    types = {"is_primary": sql.SQL("boolean")}
    updated = [sql.Identifier(name) for name in ("batch_id", *COLUMNS)]
    script = template.format(
        types=sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), types.get(name, sql.SQL("text"))) for name in _COLUMNS
        ),
        names=sql.SQL(", ").join(map(sql.Identifier, _COLUMNS)),
        updates=sql.SQL(", ").join(sql.SQL("{} = excluded.{}").format(name, name) for name in updated),
        file=sql.Literal(str(file)),
        organization=sql.Literal(ORGANIZATION),
    )
    command = [str(postgres_program("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1", url]
    return measure_command(command, database_url=url, script=script.as_string())[0]
