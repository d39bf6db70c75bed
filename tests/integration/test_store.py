import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest
import structlog
from tests.integration.outside import World, checkout

from coatcheck.store import database
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


async def test_G17_I3_another_release_s_functions_come_and_go_beside_a_gateway_that_works(
    store: Store, owner: asyncpg.Connection, database_url: str
) -> None:
    """From one release to the next and back, while an open transaction has written to every table."""
    world = World(store)
    await world.pay(checkout("before", "o"), "before")
    tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    names = ", ".join(row["tablename"] for row in tables if row["tablename"] != "schema_version")
    starting = await asyncpg.connect(database_url)
    try:
        for number in range(3):
            await owner.execute("UPDATE schema_version SET functions_digest = 'of another release'")
            async with owner.transaction(), asyncio.timeout(20):
                await owner.execute(f"LOCK TABLE {names} IN ROW EXCLUSIVE MODE")  # what a batch of payments holds
                await migrate(starting)
            view = await world.pay(checkout(f"c{number}", f"o{number}"), f"k{number}")
            assert view.status == "SUCCESS"
            assert (await world.refund(f"o{number}", key=f"r{number}")).verdict == "requested"
    finally:
        await starting.close()
    assert await world.violations() == {}


async def test_G17_a_start_waits_for_its_turn_no_longer_than_half_a_minute(owner: asyncpg.Connection) -> None:
    """Whoever waits for a lock keeps others waiting behind him."""
    await migrate(owner)
    assert await owner.fetchval("SHOW lock_timeout") == "30s"


async def test_G15_a_server_that_does_not_find_out_what_its_disk_changes_is_told_of(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = database._ASKED_OF_THE_SERVER.replace("current_setting('data_checksums')::boolean", "false")
    for asked, told in ((database._ASKED_OF_THE_SERVER, []), (without, ["database_without_checksums"])):
        monkeypatch.setattr(database, "_ASKED_OF_THE_SERVER", asked)
        with structlog.testing.capture_logs() as lines:
            async with _open(database_url, 1):
                pass
        assert [line["event"] for line in lines] == told


async def test_I3_a_newer_schema_is_refused_with_what_to_do(owner: asyncpg.Connection) -> None:
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
