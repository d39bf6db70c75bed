"""Real PostgreSQL for the simulation, and the seed to play again: `pytest tests/simulation --seed 7`."""

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
import structlog
from tests.integration.conftest import database_url, new_database, owner, server, template_made

from coatcheck.store.database import Store, _open
from coatcheck.store.embedded import EmbeddedServer

__all__ = ["database_url", "owner", "seed", "server", "store", "template_made"]


@asynccontextmanager
async def open_quick(database_url: str, owner: asyncpg.Connection) -> AsyncIterator[Store]:
    """The open store. No commit waits for the disk: nothing here takes the power away from PostgreSQL itself."""
    async with _open(database_url, pool_size=10) as opened:
        database = await owner.fetchval("SELECT current_database()")
        await owner.execute(f'ALTER DATABASE "{database}" SET synchronous_commit = off')
        await opened.pool.expire_connections()
        yield opened


@pytest.fixture
async def store(database_url: str, owner: asyncpg.Connection) -> AsyncIterator[Store]:
    async with open_quick(database_url, owner) as opened:
        yield opened


Arena = Callable[[], AbstractAsyncContextManager[tuple[Store, asyncpg.Connection]]]


@pytest.fixture
def arena(server: EmbeddedServer, template_made: list[str]) -> Arena:
    """Open as many databases as a test needs, one after another: each with its store and its owner."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Store, asyncpg.Connection]]:
        async with new_database(server, template_made) as url:
            owner = await asyncpg.connect(url)
            async with open_quick(url, owner) as store:
                yield store, owner
            await owner.close()

    return opened


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="Play the simulation of this seed. [default: a new one]")


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    """What a gateway logs of thousands of faults would cost more time than the faults."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run; printed here, it stands in the report of whatever fails."""
    given: int | None = request.config.getoption("--seed", default=None)
    chosen = secrets.randbelow(10**9) if given is None else given
    print(f"play it again: .venv/bin/pytest {request.node.nodeid.split('[')[0]} --seed {chosen}")  # noqa: T201
    return chosen
