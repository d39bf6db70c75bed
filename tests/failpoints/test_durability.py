"""What a promise rests on: the disk, the order of store and answer, and leases that are given back."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.failpoints.scenarios import send_request
from tests.failpoints.stage import Fault, Stage
from tests.integration.outside import CALLER, checkout
from tests.memory import directory_in_memory
from tests.simulation.processes import checkout_body
from tests.unit.test_money import floats_in

from coatcheck import payments
from coatcheck.failpoints import Failpoint
from coatcheck.providers.protocol import ReceivedEvent
from coatcheck.shops import create_key
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.store.database import StoreError, _create_database, _open
from coatcheck.store.embedded import DATABASE_NAME, EmbeddedServer, _start


async def test_G7_every_session_waits_for_the_disk(store: Store) -> None:
    assert await store.pool.fetchval("SHOW synchronous_commit") == "on"


@pytest.mark.parametrize("setting", ["off", "local"])
async def test_G7_a_server_that_may_lose_commits_is_refused(
    database_url: str, owner: asyncpg.Connection, setting: str
) -> None:
    database = await owner.fetchval("SELECT current_database()")
    await owner.execute(f"ALTER DATABASE {database} SET synchronous_commit = {setting}")
    with pytest.raises(StoreError, match="synchronous_commit"):
        async with _open(database_url, pool_size=1):
            pass


@asynccontextmanager
async def told(owner: asyncpg.Connection, url: str, name: str, value: str) -> AsyncIterator[None]:
    """Let the whole server run with a setting for a while."""

    async def until(wanted: str) -> None:
        await owner.execute("SELECT pg_reload_conf()")
        for _ in range(500):
            session = await asyncpg.connect(url)
            try:
                if await session.fetchval(f"SHOW {name}") == wanted:
                    return
            finally:
                await session.close()
            await asyncio.sleep(0.01)
        pytest.fail(f"the server does not take {name} = {wanted}")

    before: str = await owner.fetchval(f"SHOW {name}")
    await owner.execute(f"ALTER SYSTEM SET {name} = {value}")
    try:
        await until(value)
        yield
    finally:
        await owner.execute(f"ALTER SYSTEM RESET {name}")
        await until(before)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_G15_a_server_that_a_power_cut_may_ruin_is_refused(
    database_url: str, owner: asyncpg.Connection, setting: str
) -> None:
    async with told(owner, database_url, setting, "off"):
        with pytest.raises(StoreError, match=rf"PostgreSQL runs with {setting} off: it could lose payments"):
            async with _open(database_url, pool_size=1):
                pass
    async with _open(database_url, pool_size=1):
        pass


async def test_G15_the_server_that_comes_with_the_package_finds_out_what_its_disk_has_changed(
    owner: asyncpg.Connection,
) -> None:
    settings = ("fsync", "full_page_writes", "data_checksums")
    assert [await owner.fetchval(f"SHOW {name}") for name in settings] == ["on"] * 3


@pytest.fixture
def standby() -> Iterator[EmbeddedServer]:
    """A server that was a primary, and replays now what another one does."""
    place = directory_in_memory()
    with tempfile.TemporaryDirectory(prefix="coatcheck-standby-", dir=place, ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        _start(Path(directory)).server.cleanup()
        (Path(directory) / "postgresql/standby.signal").touch()
        running = _start(Path(directory))
        yield running
        running.server.cleanup()


async def test_G8_a_standby_is_no_database(standby: EmbeddedServer) -> None:
    """Whoever comes to a demoted primary is sent away at the door."""
    with pytest.raises(StoreError, match="PostgreSQL is a standby"):
        async with _open(standby.url("postgres"), pool_size=1):
            pass


async def test_G8_F13_where_nothing_can_be_written_any_more_nobody_is_charged(
    store: Store, owner: asyncpg.Connection
) -> None:
    """The gateway ran on when its server became a standby."""
    stage = Stage(store)
    key, _ = await create_key(store, stage.clock, CALLER.shop_name, CALLER.mode)
    order = {"payment_order_id": "o1", "seller_account": "s1", "amount": "10.00", "currency": "EUR"}
    raw = json.dumps(checkout_body("c1", [order], "tok_approve")).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "idempotency-key": "k"}
    database = await owner.fetchval("SELECT current_database()")

    async def post(read_only: str) -> tuple[int, dict[str, Any]]:
        await owner.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = {read_only}")
        await store.pool.expire_connections()
        status, body = await send_request(stage.living(), "/v1/payments", headers, raw)
        return status, json.loads(body)

    refused = await post("on")
    assert (refused[0], refused[1]["code"]) == (503, "overloaded")
    assert stage.psp.charges() == []
    await owner.execute("SET default_transaction_read_only = off")
    assert (await post("off"))[0] == 201
    assert len(stage.psp.charges()) == 1


async def test_G14_indexes_that_were_made_with_other_rules_of_sorting_are_refused(
    database_url: str, owner: asyncpg.Connection
) -> None:
    """An upgrade of the operating system has changed its collations: unique indexes may miss what is there."""
    await owner.execute("UPDATE pg_database SET datcollversion = '2.28' WHERE datname = current_database()")
    with pytest.raises(StoreError, match=r"made with 2\.28.*REINDEX DATABASE"):
        async with _open(database_url, pool_size=1):
            pass


async def test_G14_the_server_that_comes_with_the_package_sorts_by_bytes(
    server: EmbeddedServer, owner: asyncpg.Connection
) -> None:
    await _create_database(server.url("postgres"))
    try:
        (row,) = await owner.fetch(
            "SELECT datcollate, datctype, datcollversion FROM pg_database WHERE datname = $1", DATABASE_NAME
        )
    finally:
        await owner.execute(f"DROP DATABASE {DATABASE_NAME}")
    assert tuple(row) == ("C", "C", None)


async def test_C12_no_2xx_before_the_store(store: Store) -> None:
    """An event that could not be stored is not acknowledged; sent again, it is stored and acknowledged."""
    stage = Stage(store, place=(Failpoint.INBOX_BEFORE_STORE, 1), fault=Fault.EXCEPTION)
    letter = b'{"id":"evt_1","type":"charge.succeeded","created":1,"livemode":false,"account":"coatcheck","data":{}}'

    async def post() -> tuple[int, bytes]:
        return await send_request(stage.living(), "/webhooks/simulator", stage.psp.sign(letter), letter)

    with stage.listening():
        assert (await post())[0] == 500
        assert stage.has_struck
        assert await store.pool.fetchval("SELECT count(*) FROM inbox") == 0
        assert (await post())[0] == 200
    assert await store.pool.fetchval("SELECT count(*) FROM inbox") == 1


async def test_C3_an_event_that_comes_again_later_and_elsewhere_is_stored_once(store: Store) -> None:
    events = [ReceivedEvent(account="coatcheck", event_id="evt_1", raw=b"{}")]
    for stage in (Stage(store), Stage(store)):
        inbox = stage.living().gateway.inbox
        await inbox.store("simulator", Mode.TEST, {}, events)
        assert await inbox.store("simulator", Mode.TEST, {}, events) == 0
    assert await store.pool.fetchval("SELECT count(*) FROM inbox") == 1


async def test_F12_a_gateway_that_stops_gives_back_what_it_holds(store: Store) -> None:
    stage = Stage(store)
    gateway = stage.living().gateway
    await gateway.payments.accept(CALLER, checkout("c1", "o1"), "key of c1")
    assert await gateway.operations.claim(10) == []
    await gateway.executor.stop(timedelta(seconds=1))
    (claimed,) = await gateway.operations.claim(10)
    assert claimed.attempt == 2


def test_E1_no_float_touches_what_books_money() -> None:
    paths = sorted(Path(payments.__file__).parent.glob("*.py"))
    assert "effects.py" in {path.name for path in paths}
    assert {path.name: found for path in paths if (found := floats_in(path.read_text("utf-8")))} == {}
