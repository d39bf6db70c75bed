import asyncpg
import pytest

from coatcheck.store.database import Store
from coatcheck.store.migrations import MigrationError, migrate


async def test_the_pool_speaks_as_the_application_role(store: Store) -> None:
    assert await store.pool.fetchval("SELECT current_user") == "coatcheck_app"


async def test_migrating_twice_changes_nothing(owner: asyncpg.Connection) -> None:
    await migrate(owner)
    assert await owner.fetchval("SELECT count(*) FROM schema_version") == 1


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
