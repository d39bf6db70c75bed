"""PostgreSQL gives a transaction up in favour of another: it is run again, and is nobody's result."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.integration.locks import deadlocks, until_waiting
from tests.integration.outside import ScriptedProvider, World, checkout
from tests.integration.payees import pay_out, seller_with
from tests.integration.running import Answer, RunningGateway, gateway_server, simulator_url
from tests.integration.running import checkout as checkout_body

from coatcheck.states import Capture
from coatcheck.store import Store

__all__ = ["gateway_server", "simulator_url"]

GIVES_UP = """
    CREATE SEQUENCE given_up;
    CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    BEGIN
        IF nextval('given_up') <= {times} THEN RAISE EXCEPTION 'gave way' USING ERRCODE = '{state}'; END IF;
        RETURN NEW;
    END;
    $$;
    CREATE TRIGGER give_up BEFORE INSERT ON event FOR EACH ROW WHEN (NEW.kind = '{kind}') EXECUTE FUNCTION give_up();
"""
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("payment.accepted", "/v1/payments", checkout_body("new")),
    ("capture.requested", "{held}/capture", {}),
    ("cancel.requested", "{held}/cancel", {}),
    ("refund.requested", "/v1/refunds", {"payment_order_id": "paid-0"}),
]
STATES = pytest.mark.parametrize("state", ["40001", "40P01"])  # serialization_failure, deadlock_detected


@asynccontextmanager
async def giving_up(owner: asyncpg.Connection, state: str, kind: str, times: int) -> AsyncIterator[None]:
    """Have PostgreSQL give up so many transactions that write an event of a kind, each when all its work is done."""
    await owner.execute(GIVES_UP.format(state=state, kind=kind, times=times))
    try:
        yield
    finally:
        met: int = await owner.fetchval("SELECT last_value FROM given_up")
        await owner.execute("DROP FUNCTION give_up CASCADE; DROP SEQUENCE given_up")
    assert met == min(times + 1, 8)


Ask = Callable[[World], Awaitable[Any]]


async def _captured(world: World) -> None:
    view = await world.pay(checkout("c2", "o2", capture=Capture.MANUAL), "k2")
    assert await world.capture(view) == ["requested"]


async def _cancelled(world: World) -> None:
    view = await world.pay(checkout("c2", "o2", capture=Capture.MANUAL), "k2")
    assert await world.cancel(view) == ["requested"]


async def _refunded(world: World) -> None:
    assert (await world.refund("o1", 600)).verdict == "requested"


async def _paid_out(world: World) -> None:
    assert (await pay_out(world, 600)).verdict == "requested"


async def _paid(world: World) -> None:
    assert (await world.pay(checkout("c2", "o2"), "k2")).status == "SUCCESS"


@STATES
@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        ("payment.accepted", _paid),
        ("order.succeeded", _paid),
        ("capture.requested", _captured),
        ("cancel.requested", _cancelled),
        ("refund.requested", _refunded),
        ("payout.requested", _paid_out),
    ],
)
async def test_B9_what_postgresql_gave_up_is_run_again_and_nobody_hears_of_it(
    store: Store, owner: asyncpg.Connection, state: str, kind: str, ask: Ask
) -> None:
    world = World(store, ScriptedProvider(payout_token=r"dest_\w+"))
    await world.pay(checkout("c1", "o1"))
    await seller_with(world, 1000)
    calls = len(world.provider.calls)
    async with giving_up(owner, state, kind, times=3):
        await ask(world)
    assert await world.count("event", f"kind = '{kind}'") == (2 if ask is _paid else 1)
    assert await world.count("operation", "status = 'OPEN'") == await world.count("lease") == 0
    assert len(world.provider.calls) - calls == (2 if ask in (_captured, _cancelled) else 1)
    assert set(await world.violations()) == set()


async def test_B9_G4_a_refund_that_dies_of_a_deadlock_is_reserved_a_moment_later(
    store: Store, owner: asyncpg.Connection
) -> None:
    """It has the order's row and wants a table that somebody has who wants its row: PostgreSQL ends one of the two."""
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    await owner.execute("SET deadlock_timeout = '1min'")  # the refund is the one to find out
    other = owner.transaction()
    await other.start()
    await owner.execute("LOCK TABLE late_success IN EXCLUSIVE MODE")
    refunding = asyncio.create_task(world.refund("o1", 600))
    await until_waiting(owner)
    await owner.execute("SELECT FROM payment_order FOR UPDATE")
    await other.rollback()
    assert (await refunding).verdict == "requested"
    assert await deadlocks(store) == 1
    assert await world.count("refund") == world.provider.asked.count("refund") == 1
    assert await world.violations() == {}


async def act(server: RunningGateway, key: str, path: str, body: Any) -> Answer:
    return await server.ask("POST", path, key, json=body, headers={"Idempotency-Key": "key-of-it"})


async def standing(store: Store) -> list[Any]:
    """All that a request may change, and what was asked of the PSP."""
    rows = await store.pool.fetch(
        "SELECT to_json(o)::text FROM payment_order AS o UNION ALL SELECT to_json(r)::text FROM refund AS r "
        "UNION ALL SELECT to_json(c)::text FROM operation AS c UNION ALL SELECT to_json(e)::text FROM event AS e "
        "UNION ALL SELECT to_json(p)::text FROM payment AS p UNION ALL SELECT to_json(l)::text FROM lease AS l"
    )
    return sorted(row[0] for row in rows)


@STATES
@pytest.mark.parametrize("what", REQUESTS, ids=[kind for kind, *_ in REQUESTS])
async def test_B9_what_postgresql_gives_up_for_good_is_a_503_that_left_nothing_and_may_come_again(
    gateway_server: RunningGateway,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    what: tuple[str, str, dict[str, Any]],
) -> None:
    kind, path, body = what
    monkeypatch.setattr("coatcheck.store.batch._FIRST_PAUSE_S", 0)
    server, store = gateway_server, gateway_server.gateway.store
    key = await server.make_key()
    assert (await server.pay(key, checkout_body("paid"), Idempotency_Key="paid")).status == 201
    held = await server.pay(key, checkout_body("held", capture="manual"), Idempotency_Key="held")
    path = path.format(held=f"/v1/payments/{held.body['payment_id']}")
    before = await standing(store)
    async with giving_up(owner, state, kind, times=1000):
        refused = await act(server, key, path, body)
        assert refused.status == 503, refused.raw
        assert (refused.body["code"], refused.headers["retry-after"]) == ("overloaded", "1")
        assert "same key" in refused.body["detail"]
        assert await standing(store) == before
    answer = await act(server, key, path, body)
    assert answer.status in (200, 201)
    assert "idempotent-replayed" not in answer.headers
    assert await store.pool.fetchval("SELECT count(*) FROM event WHERE kind = $1", kind) == (
        3 if kind == "payment.accepted" else 1
    )
