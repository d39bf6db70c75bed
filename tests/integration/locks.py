"""What tests of races ask PostgreSQL about its locks."""

import asyncio

import asyncpg
import pytest

from coatcheck.store import Store


async def until_waiting(connection: asyncpg.Connection, waiting: int = 1) -> None:
    """Wait until so many others wait for a lock; the connection may be the one that holds it."""
    for _ in range(1000):
        if await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") >= waiting:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"there are not {waiting} who wait")


async def deadlocks(store: Store) -> int:
    """Count the deadlocks there were in the test's database."""
    async with store.pool.acquire() as connection:
        await connection.execute("SELECT pg_stat_clear_snapshot()")
        return int(
            await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        )
