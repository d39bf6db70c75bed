import asyncpg
import pytest

from coatcheck.store.database import Store, _open
from coatcheck.store.embedded import EmbeddedServer
from coatcheck.store.migrations import MigrationError, migrate


async def test_the_pool_speaks_as_the_application_role(store: Store) -> None:
    assert await store.pool.fetchval("SELECT current_user") == "coatcheck_app"


async def test_the_embedded_application_role_logs_in_itself_and_cannot_become_the_owner(
    server: EmbeddedServer, database_url: str
) -> None:
    name = database_url.partition("?")[0].rpartition("/")[2]
    async with _open(database_url, 1, server.url(name, user="coatcheck_app")) as store, store.pool.acquire() as session:
        assert await session.fetchval("SELECT session_user") == "coatcheck_app"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await session.execute("SET ROLE postgres")


async def test_migrating_twice_changes_nothing(owner: asyncpg.Connection) -> None:
    await migrate(owner)
    assert await owner.fetchval("SELECT count(*) FROM schema_version") == 1


async def test_a_function_whose_arguments_changed_leaves_nothing_behind(owner: asyncpg.Connection) -> None:
    await owner.execute("CREATE FUNCTION ledger_post(older_form integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    await owner.execute("UPDATE schema_version SET functions_digest = 'of an earlier release'")
    await migrate(owner)
    assert await owner.fetchval("SELECT count(*) FROM pg_proc WHERE proname = 'ledger_post'") == 1


async def test_a_newer_schema_is_refused_with_what_to_do(owner: asyncpg.Connection) -> None:
    await owner.execute("UPDATE schema_version SET version = 9999")
    with pytest.raises(MigrationError, match="start a newer Coatcheck"):
        await migrate(owner)


async def test_the_application_role_cannot_rewrite_history(store: Store) -> None:
    for table in ("event", "payment", "payment_order", "operation", "lease", "idempotency_key"):
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await store.pool.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await store.pool.execute("UPDATE event SET kind = 'x'")
