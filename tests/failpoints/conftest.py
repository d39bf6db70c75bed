"""Real PostgreSQL for the failpoints, and silence: what a gateway logs of hundreds of faults is not read."""

import logging
from collections.abc import Iterator

import asyncpg
import pytest
import structlog
from tests.integration.conftest import database_url, owner, server, store, template_made

from coatcheck.store import Store

__all__ = ["database_url", "owner", "server", "store", "template_made"]


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
async def hasty_store(store: Store, owner: asyncpg.Connection) -> Store:
    """The open store. No commit waits for the disk: the matrix takes processes away, never the power."""
    database = await owner.fetchval("SELECT current_database()")
    await owner.execute(f'ALTER DATABASE "{database}" SET synchronous_commit = off')
    await store.pool.expire_connections()
    return store
