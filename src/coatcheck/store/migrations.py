"""Bring a database to this release's schema: a fresh one from sql/schema, an older one through sql/migrations.

Functions are replaced at each start when their text changed; they hold no data.
"""

import hashlib
import re

import asyncpg

from coatcheck.store.sql_files import sql_files

APPLICATION_ROLE = "coatcheck_app"
FIRST_VERSION = 1  # what sql/schema says; each migration file's leading number is the version it leads to
_LOCK = 0x636F6174  # one migration at a time, whoever starts first

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_version (
    version          integer NOT NULL,
    functions_digest text NOT NULL,
    only_row         boolean PRIMARY KEY DEFAULT true,
    CONSTRAINT schema_version_has_one_row CHECK (only_row)
)
"""
# Roles belong to the whole server: an administrator, another database, or another process right now may have made it.
_MAKE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{APPLICATION_ROLE}') THEN
        CREATE ROLE {APPLICATION_ROLE} NOLOGIN;
    END IF;
    IF NOT pg_has_role(CURRENT_USER, '{APPLICATION_ROLE}', 'SET') THEN
        GRANT {APPLICATION_ROLE} TO CURRENT_USER;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""


class MigrationError(Exception):
    """The database cannot be brought to this release; the text says what to do."""


async def migrate(owner: asyncpg.Connection) -> None:
    """Create or upgrade the schema in one transaction. Locks: one advisory lock, so processes may start together."""
    await owner.execute("SET lock_timeout = '30s'")
    async with owner.transaction():
        await owner.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await owner.execute(_MAKE_ROLE)
        await owner.execute(_BOOKKEEPING)
        row = await owner.fetchrow("SELECT version, functions_digest FROM schema_version")
        version = await _create(owner) if row is None else await _upgrade(owner, row["version"])
        text = "\n".join(sql_files("functions").values())
        digest = hashlib.sha256(text.encode()).hexdigest()
        if row is None or row["functions_digest"] != digest:
            await _drop_functions(owner, text)
            await owner.execute(text)
        await owner.execute(
            """INSERT INTO schema_version (version, functions_digest) VALUES ($1, $2)
               ON CONFLICT (only_row) DO UPDATE SET version = $1, functions_digest = $2""",
            version,
            digest,
        )


async def _drop_functions(owner: asyncpg.Connection, text: str) -> None:
    """Drop every earlier form of the functions about to be made: with other arguments it would stay beside the new."""
    names = re.findall(r"^CREATE OR REPLACE FUNCTION (\w+)", text, re.MULTILINE)
    rows = await owner.fetch(
        "SELECT oid::regprocedure::text AS signature FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace AND proname = ANY($1)",
        names,
    )
    for row in rows:
        await owner.execute(f"DROP FUNCTION {row['signature']}")


def _migration_files() -> dict[int, str]:
    return {int(name.partition("_")[0]): text for name, text in sql_files("migrations").items()}


async def _create(owner: asyncpg.Connection) -> int:
    for text in sql_files("schema").values():
        await owner.execute(text)
    return max(_migration_files(), default=FIRST_VERSION)


async def _upgrade(owner: asyncpg.Connection, version: int) -> int:
    files = _migration_files()
    newest = max(files, default=FIRST_VERSION)
    if version > newest:
        raise MigrationError(
            f"the database has schema version {version}, this release knows {newest}: start a newer Coatcheck"
        )
    for number in sorted(files):
        if number > version:
            await owner.execute(files[number])
    return newest
