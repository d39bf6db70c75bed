"""Real PostgreSQL: one embedded server per test process, one database per test, cloned from a migrated template."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import structlog
from tests.memory import directory_in_memory

from coatcheck.store.database import Store, _open
from coatcheck.store.embedded import EmbeddedServer, _start

TEMPLATE = "coatcheck_template"


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """What a command run in the test's own process says of logs ends with the test, as its output does."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    place = directory_in_memory()
    with tempfile.TemporaryDirectory(prefix="coatcheck-tests-", dir=place, ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        running = _start(Path(directory))
        yield running
        running.server.cleanup()


@pytest.fixture(scope="session")
def template_made() -> list[str]:
    """Filled by the first test that needs the template (fixtures of a wider scope have no event loop)."""
    return []


@asynccontextmanager
async def new_database(server: EmbeddedServer, template_made: list[str]) -> AsyncIterator[str]:
    """A database of its own, migrated; yields the address that logs in as the owner of the schema."""
    name = f"test_{uuid4().hex}"
    maintenance = await asyncpg.connect(server.url("postgres"))
    try:
        if not template_made:
            await maintenance.execute(
                f"CREATE DATABASE {TEMPLATE} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            )
            async with _open(server.url(TEMPLATE), pool_size=1):
                template_made.append(TEMPLATE)
        await maintenance.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        yield server.url(name)
        await maintenance.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await maintenance.close()


@pytest.fixture
async def database_url(server: EmbeddedServer, template_made: list[str]) -> AsyncIterator[str]:
    """A database of the test's own; the address logs in as the owner of the schema."""
    async with new_database(server, template_made) as url:
        yield url


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """The open store; its pool speaks as the application role."""
    async with _open(database_url, pool_size=8) as opened:
        yield opened


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the owner of the schema, for what the application role must not do."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()
