"""The database under a slow PSP, and the gateway without its database."""

import asyncio
from collections import Counter

import aiohttp
import asyncpg
import pytest
from tests.integration.running import Answer, RunningGateway, checkout, run_gateway, run_simulator
from tests.simulation.processes import database_line

from coatcheck.store import Store
from coatcheck.store.database import _open

QUICK = {"lease_s": 4, "call_deadline_s": 1, "connect_deadline_s": 1, "retry_base_ms": 50}


async def pay_until_done(gateway: RunningGateway, key: str, name: str) -> Answer:
    """Send the same request with the same key until the answer is final."""
    for _ in range(60):
        answer = await gateway.pay(key, checkout(name), Idempotency_Key=name, Prefer="wait=10")
        if answer.status == 201:
            return answer
        assert answer.status in (202, 409, 500, 503), answer
        await asyncio.sleep(0.2)
    raise AssertionError(f"no final answer: {answer}")


async def test_G10_no_database_transaction_is_open_while_a_psp_is_slow(store: Store, owner: asyncpg.Connection) -> None:
    with run_simulator("--latency-ms", "6000") as simulator_url:
        async with run_gateway(store, simulator_url) as gateway:
            key = await gateway.make_key()
            names = [f"slow-{number}" for number in range(40)]  # five times the pool's connections
            started = await asyncio.gather(
                *[gateway.pay(key, checkout(name), Idempotency_Key=name, Prefer="wait=0") for name in names]
            )
            assert {answer.status for answer in started} == {202}
            states: Counter[str] = Counter()
            for place in range(200):
                shown = await gateway.ask("GET", f"/v1/payments/{started[place % 40].body['payment_id']}", key)
                assert (shown.status, shown.body["status"]) == (200, "EXECUTING"), "the PSP was not slow enough"
                states.update(
                    await owner.fetchval(
                        "SELECT array_agg(state) FROM pg_stat_activity "
                        "WHERE application_name = 'coatcheck' AND datname = current_database()"
                    )
                )
            assert states["idle"] > 0
            assert states["idle in transaction"] == states["idle in transaction (aborted)"] == 0


async def charged_in_all(gateway: RunningGateway) -> int:
    async with gateway.session.get(f"{gateway.simulator_url}/admin/books") as response:
        books = await response.json()
    return int(books["charges"])


async def test_F13_without_a_database_nothing_is_charged_and_the_retry_charges_once(database_url: str) -> None:
    async with database_line(database_url) as line:
        with run_simulator() as simulator_url:
            async with (
                _open(line.url, pool_size=4) as store,
                run_gateway(store, simulator_url, settings=QUICK) as gateway,
            ):
                key = await gateway.make_key()
                assert (await gateway.pay(key, checkout("before"), Idempotency_Key="before")).status == 201
                await line.cut()
                answers = await asyncio.gather(
                    *[gateway.pay(key, checkout(f"away-{n}"), Idempotency_Key=f"away-{n}") for n in range(5)]
                )
                for answer in answers:
                    assert answer.status == 503, answer
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.body["code"] == "overloaded"
                    assert "database" in answer.body["detail"]
                    assert "same key" in answer.body["detail"]
                    assert answer.headers["retry-after"] == "1"
                assert await charged_in_all(gateway) == 1
                await line.mend()
                for number in range(5):
                    answer = await pay_until_done(gateway, key, f"away-{number}")
                    assert answer.body["status"] == "SUCCESS"
                    assert await gateway.charges(f"away-{number}-0") == 1


@pytest.mark.slow
async def test_A2_F13_a_database_lost_while_the_psp_charges_is_booked_when_it_is_back(database_url: str) -> None:
    async with database_line(database_url) as line:
        with run_simulator("--latency-ms", "600") as simulator_url:
            async with (
                _open(line.url, pool_size=4) as store,
                run_gateway(store, simulator_url, settings=QUICK) as gateway,
            ):
                key = await gateway.make_key()
                paying = asyncio.create_task(gateway.pay(key, checkout("lost"), Idempotency_Key="lost"))
                await until_charged(gateway)
                await line.cut()
                assert (await paying).status in (500, 503)
                assert await gateway.charges("lost-0") == 1
                await line.mend()
                answer = await pay_until_done(gateway, key, "lost")
                assert answer.body["status"] == "SUCCESS"
                assert await gateway.charges("lost-0") == 1


async def until_charged(gateway: RunningGateway) -> None:
    """Wait for the moment between the PSP's charge and its answer."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        while True:
            async with session.get(f"{gateway.simulator_url}/admin/books") as response:
                if (await response.json())["charges"]:
                    return
            await asyncio.sleep(0.01)
