"""Open the database: self-check, migrations, and the pool that speaks as the application role."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import asyncpg
import structlog

from coatcheck.store.batch import GAVE_WAY
from coatcheck.store.connector import Connector
from coatcheck.store.embedded import DATABASE_NAME, start_embedded
from coatcheck.store.migrations import APPLICATION_ROLE, MigrationError, migrate
from coatcheck.store.sql_files import sql_files

OLDEST_SERVER = 16
# A recovery after a crash takes seconds; a long one is a reason to look.
_COMES_WITHIN_S: Final = 60.0
_LOOKS_AGAIN_AFTER_S: Final = 0.5
# What a payment's durability rests on; a server without them may lose an acknowledged payment.
_MUST_BE_ON = ("fsync", "full_page_writes", "synchronous_commit")
_ASKED_OF_THE_SERVER = """
    SELECT pg_is_in_recovery() AS is_standby, current_setting('data_checksums')::boolean AS has_checksums,
           datcollversion AS made_with, pg_database_collation_actual_version(oid) AS collates_with
      FROM pg_database WHERE datname = current_database()
"""
_SESSION = {
    "application_name": "coatcheck",
    "jit": "off",
    "timezone": "UTC",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "15s",
}

# The arrays that the set-based functions take and give.
_TYPES_ASKED = (
    "SELECT $1::bigint[], $2::boolean[], $3::bytea[], $4::integer[], $5::text[], $6::timestamptz[], $7::uuid[]"
)

log = structlog.get_logger("coatcheck.store")

# It has no connection left, was stopped, is starting, took too long, the line to it is cut, it is a standby by now, or
# it gave up what it was asked in favour of others each time.
_AWAY = (
    *GAVE_WAY,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)


def is_away(error: BaseException) -> bool:
    """Say whether an error means that the database cannot do it for now: nobody's request is at fault."""
    return isinstance(error, _AWAY) and not isinstance(error, ValueError)  # asyncpg's word for an argument of ours


class StoreError(Exception):
    """The database cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Store:
    """The open database. `pool` connects as the application role: it cannot rewrite history."""

    pool: asyncpg.Pool
    queries: Mapping[str, str]
    invariants: Mapping[str, str]


@asynccontextmanager
async def open_store(database_url: str | None, data_dir: Path, *, pool_size: int) -> AsyncIterator[Store]:
    """Open PostgreSQL at `database_url`, or the embedded one under `data_dir`; migrate it; yield the store.

    Raises StoreError when the server cannot be reached, is too old, or would not keep what it acknowledged.
    """
    if database_url is not None:
        async with _open(database_url, pool_size) as store:
            yield store
        return
    server = await start_embedded(data_dir)
    try:
        await _create_database(server.url("postgres"))
        async with _open(server.url(), pool_size, server.url(user=APPLICATION_ROLE)) as store:
            yield store
    finally:
        await server.stop()


@asynccontextmanager
async def _open(owner_url: str, pool_size: int, application_url: str | None = None) -> AsyncIterator[Store]:
    """Migrate as the owner, then work as the application role.

    With an address of its own the role logs in itself and can never become the owner; without, the owner's login
    steps down to it for each session.
    """
    owner = await _connect(owner_url)
    try:
        await _check_server(owner)
        await migrate(owner)
        if application_url is not None:
            await owner.execute(f"ALTER ROLE {APPLICATION_ROLE} LOGIN")
    except MigrationError as error:
        raise StoreError(str(error)) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StoreError(
            f"the database user may not prepare the schema ({error}). It must own the database and either have "
            f"CREATEROLE or be granted our role: CREATE ROLE {APPLICATION_ROLE}; GRANT {APPLICATION_ROLE} TO the_user"
        ) from error
    finally:
        await owner.close()
    pool = await asyncpg.create_pool(
        application_url or owner_url,
        min_size=min(2, pool_size),
        max_size=pool_size,
        server_settings=_SESSION if application_url is not None else {**_SESSION, "role": APPLICATION_ROLE},
        init=_learn_types,
        reset=_leave_as_it_is,
        connect=Connector().connect,
    )
    try:
        yield Store(pool, sql_files("queries"), sql_files("invariants"))
    finally:
        await pool.close()


async def _learn_types(connection: asyncpg.Connection) -> None:
    """Have the driver ask about all array types at once: else it asks again with each statement that brings a new one.

    Its question is dear to plan, and every connection of every start asks it.
    """
    await connection.prepare(_TYPES_ASKED)


async def _leave_as_it_is(_: Any) -> None:
    """Skip the statement that would reset a returned connection: nothing here changes a session outside SET LOCAL."""


async def _connect(url: str) -> asyncpg.Connection:
    """Connect once; a server that says it is starting or recovering is waited for."""
    deadline = monotonic() + _COMES_WITHIN_S
    while True:
        try:
            return await asyncpg.connect(url)
        except asyncpg.CannotConnectNowError as error:
            if monotonic() > deadline:
                raise StoreError(
                    f"PostgreSQL has let nobody in for {_COMES_WITHIN_S:g} s ({error}): look into its log"
                ) from error
            log.info("waiting_for_database", cause=str(error))
            await asyncio.sleep(_LOOKS_AGAIN_AFTER_S)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise StoreError(
                f"cannot connect to PostgreSQL ({error}): check DATABASE_URL, or unset it to use the embedded server"
            ) from error


async def _check_server(owner: asyncpg.Connection) -> None:
    """Refuse a server that would not keep what it acknowledges, or would not find it again."""
    if owner.get_server_version().major < OLDEST_SERVER:
        raise StoreError(
            f"PostgreSQL {owner.get_server_version().major} is too old: {OLDEST_SERVER} or newer is needed"
        )
    rows = await owner.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", list(_MUST_BE_ON))
    unsafe = sorted(row["name"] for row in rows if row["setting"] in ("off", "local"))
    if unsafe:
        raise StoreError(f"PostgreSQL runs with {', '.join(unsafe)} off: it could lose payments. Turn it on, restart")
    (row,) = await owner.fetch(_ASKED_OF_THE_SERVER)
    if row["is_standby"]:
        raise StoreError(
            "PostgreSQL is a standby, which takes no payments: DATABASE_URL must lead to the primary (it may name "
            "several hosts, with target_session_attrs=primary)"
        )
    if row["made_with"] not in (None, row["collates_with"]):
        raise StoreError(
            f"the operating system sorts text by rules of version {row['collates_with']} and the database's indexes "
            f"were made with {row['made_with']}: they may miss what is there. REINDEX DATABASE, then ALTER DATABASE "
            "... REFRESH COLLATION VERSION"
        )
    if not row["has_checksums"]:
        log.warning("database_without_checksums")


async def _create_database(maintenance_url: str) -> None:
    connection = await _connect(maintenance_url)
    try:
        # The C collation never changes under an index when the operating system's does.
        await connection.execute(
            f"CREATE DATABASE {DATABASE_NAME} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        pass
    finally:
        await connection.close()
