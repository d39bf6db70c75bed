"""What a promise rests on: the disk, the order of store and answer, and leases that are given back."""

from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.failpoints.scenarios import send_request
from tests.failpoints.stage import Fault, Stage
from tests.integration.outside import CALLER, checkout
from tests.unit.test_money import floats_in

from coatcheck import payments
from coatcheck.failpoints import Failpoint
from coatcheck.providers.protocol import ReceivedEvent
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.store.database import StoreError, _open


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
