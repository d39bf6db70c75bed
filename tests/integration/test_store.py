from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from coatcheck.store.database import Store, StoreError, _open
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


async def test_an_owner_who_may_make_roles_makes_the_application_role(server: EmbeddedServer) -> None:
    async with owned_database(server, "CREATEROLE") as url, _open(url, 1) as store:
        assert await store.pool.fetchval("SELECT current_user") == "coatcheck_app"


async def test_an_owner_without_rights_on_roles_works_once_it_was_granted_ours(server: EmbeddedServer) -> None:
    async with owned_database(server, "NOCREATEROLE") as url:
        with pytest.raises(StoreError, match="GRANT coatcheck_app"):
            async with _open(url, 1):
                pass
    async with owned_database(server, "NOCREATEROLE IN ROLE coatcheck_app") as url:
        for _ in range(2):
            async with _open(url, 1) as store:
                assert await store.pool.fetchval("SELECT current_user") == "coatcheck_app"


@asynccontextmanager
async def owned_database(server: EmbeddedServer, rights: str) -> AsyncIterator[str]:
    """An empty database owned by a new user with these rights, as an administrator would hand it over."""
    name = f"owned_{uuid4().hex}"
    administrator = await asyncpg.connect(server.url("postgres"))
    try:
        await administrator.execute(f"CREATE ROLE {name} LOGIN {rights}")
        if "NOCREATEROLE" not in rights:
            await administrator.execute(f"GRANT coatcheck_app TO {name} WITH ADMIN OPTION")
        await administrator.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0")
        yield server.url(name, user=name)
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await administrator.execute(f"DROP ROLE {name}")
    finally:
        await administrator.close()


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
