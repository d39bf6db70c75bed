"""The buyer comes back from the provider's page, and the webhook is late or never comes: he need not wait for long."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from tests.integration.outside import (
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    not_sent,
    pending,
    unknown,
)
from tests.integration.running import checkout as over_http
from tests.integration.running import run_gateway, simulator_url
from tests.integration.test_inbox import Psp, charge

from coatcheck.api.payments import read_payment
from coatcheck.api.returning import ask_about_page
from coatcheck.clock import ManualClock
from coatcheck.ids import PAYMENT, parse_id
from coatcheck.payments import PaymentView
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent
from coatcheck.states import Capture, OperationKind
from coatcheck.store import Store

__all__ = ["simulator_url"]

PAGE = "https://shop.example/thanks"
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
# Whose turn it is to be asked comes in an hour, more or less: what happens sooner, somebody has asked for.
PATIENT = replace(SETTINGS, retry_base_ms=3_600_000, retry_cap_s=7_200)


class _Late(random.Random):
    def random(self) -> float:
        return 0.9


def patient(store: Store, *, clock: ManualClock | None = None, **capabilities: object) -> World:
    world = World(store, ScriptedProvider(**capabilities), clock=clock, settings=PATIENT)
    world.gateway.executor._dice = _Late()
    return world


async def at_the_page(world: World, capture: Capture = Capture.AUTOMATIC) -> PaymentView:
    """Send a buyer to the page; he has been there for half a minute."""
    view = await world.pay(checkout("c1", "o1", "o2", return_url=PAGE, capture=capture))
    assert (view.status, view.redirect_url) == ("PENDING", "https://psp.example/page/cs_1")
    world.clock.advance(30 * SECOND)
    return view


async def look(world: World) -> int:
    """Let whoever polls look for work once, to its end; returns how often the provider was asked since the page."""
    await world.gateway.executor.recover_once()
    await world.quiet()
    return world.provider.asked.count("look_up")


async def test_C15_the_buyer_is_back_the_webhook_never_comes_and_the_next_poll_knows(store: Store) -> None:
    world = patient(store)
    view = await at_the_page(world)
    world.provider.look_ups = [approved] * 2
    assert await look(world) == 0
    assert await ask_about_page(world.gateway, view)
    assert world.gateway.executor._woken.is_set()
    assert world.provider.asked == ["register", "register"]  # the return itself asks nobody
    assert await look(world) == 2  # one for each order
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.count("transfer") == 4
    assert await world.violations() == {}


async def test_C15_a_return_wakes_whoever_polls_here(store: Store) -> None:
    world = patient(store)
    view = await at_the_page(world)
    world.provider.look_ups = [approved] * 2
    polling = asyncio.create_task(world.gateway.executor.recover(HOUR))
    async with asyncio.timeout(30):
        await asyncio.sleep(0.1)  # it has looked, and found nothing
        assert await ask_about_page(world.gateway, view)
        while (await world.read(view.payment_id)).status != "SUCCESS":  # noqa: ASYNC110 - in the database
            await asyncio.sleep(0.02)
        world.gateway.executor.stop_claiming()
        await polling
    assert await world.violations() == {}


async def test_C15_an_authorization_that_waits_at_the_page_is_asked_about_as_well(store: Store) -> None:
    world = patient(store)
    view = await at_the_page(world, Capture.MANUAL)
    world.provider.look_ups = [approved] * 2
    assert await ask_about_page(world.gateway, view)
    assert await look(world) == 2
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"


async def test_C15_a_hundred_refreshes_ask_the_provider_once(store: Store) -> None:
    world = patient(store)
    others = [patient(store, clock=world.clock) for _ in range(2)]
    view = await at_the_page(world)
    for each in (world, *others):
        each.provider.look_ups = [pending] * 999

    async def refresh(each: World) -> None:
        await ask_about_page(each.gateway, view)
        await each.gateway.executor.recover_once()

    async def refresh_a_hundred_times() -> int:
        await asyncio.gather(*[refresh(each) for each in (world, *others) * 34])
        for each in (world, *others):
            await each.quiet()
        return sum(each.provider.asked.count("look_up") for each in (world, *others))

    assert await refresh_a_hundred_times() == 2  # it has two orders
    world.clock.advance(4 * SECOND)
    assert await refresh_a_hundred_times() == 2
    world.clock.advance(SECOND)
    assert await refresh_a_hundred_times() == 4
    assert await world.violations() == {}


async def test_a_page_that_is_left_open_asks_less_and_less(store: Store) -> None:
    world = patient(store)
    view = await at_the_page(world)
    world.provider.look_ups = [pending] * 999
    asked_after: list[int] = []
    for second in range(30, 1200, 5):
        before = world.provider.asked.count("look_up")
        await ask_about_page(world.gateway, view)
        if await look(world) > before:
            asked_after.append(second)
        world.clock.advance(5 * SECOND)
    assert asked_after[:4] == [30, 35, 40, 45]
    assert asked_after[-2:] == [1160, 1180]
    assert len(asked_after) < 140


async def test_C15_what_somebody_works_on_is_left_to_him(store: Store) -> None:
    world, other = patient(store), patient(store)
    view = await at_the_page(world)
    other.clock.advance(2 * HOUR)
    held = await other.gateway.operations.claim(10)
    before = await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id")
    world.clock.advance(2 * HOUR - 31 * SECOND)
    assert len(held) == 2
    assert not await ask_about_page(world.gateway, view)
    assert await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id") == before


async def test_F7_what_is_due_already_keeps_its_place_in_the_queue_however_often_it_is_asked_for(store: Store) -> None:
    world = patient(store)
    view = await at_the_page(world)
    assert await ask_about_page(world.gateway, view)
    before = await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id")
    world.clock.advance(60 * SECOND)  # nobody had the time to look
    assert not await ask_about_page(world.gateway, view)
    assert await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id") == before


def told_to_wait(_: Intent) -> Outcome:
    return msgspec.structs.replace(not_sent(_), retry_after=10 * SECOND)


@pytest.mark.parametrize("answer", [unknown, told_to_wait, not_found])
async def test_F5_A14_a_provider_that_did_not_answer_is_not_hurried(
    store: Store, answer: Callable[[Intent], Outcome]
) -> None:
    world = patient(store, look_up_before_resend=True, look_up_lag=timedelta(minutes=1))
    view = await at_the_page(world)
    world.provider.look_ups = [answer] * 2
    assert await ask_about_page(world.gateway, view)
    assert await look(world) == 2
    world.clock.advance(10 * 60 * SECOND)
    assert not await ask_about_page(world.gateway, view)
    assert await look(world) == 2
    world.provider.look_ups = [pending, pending, approved, approved]
    world.clock.advance(2 * HOUR)
    assert await look(world) == 4
    world.clock.advance(5 * 60 * SECOND)
    assert await ask_about_page(world.gateway, view)  # it answers again
    assert await look(world) == 6
    assert (await world.read(view.payment_id)).status == "SUCCESS"


async def test_nothing_but_what_waits_at_a_page_is_hurried(store: Store) -> None:
    world = patient(store)
    world.provider.charges = [approved, declined, pending, unknown]
    views = [await world.pay(checkout(f"c{n}", f"o{n}"), f"k{n}") for n in range(4)]
    before = await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id")
    world.clock.advance(60 * SECOND)
    assert [await ask_about_page(world.gateway, view) for view in views] == [False] * 4
    operations = await store.pool.fetch("SELECT operation_id FROM operation")
    assert await world.gateway.operations.hurry([row["operation_id"] for row in operations]) == 0
    assert await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id") == before


async def test_C15_webhook_poll_and_return_at_once_have_one_effect(store: Store) -> None:
    """Four gateways: at each the buyer's page asks, the poller looks and the webhook is handled, all at once."""
    world = patient(store)
    others = [patient(store, clock=world.clock) for _ in range(3)]
    psp = Psp(world)
    view = await at_the_page(world)
    for each in (world, *others):
        each.provider.look_ups = [approved] * 9
    for name in ("o1", "o2", "o1", "o2"):
        await psp.send(psp.event("charge.succeeded", charge(name, "succeeded")))
    hurried: list[bool] = []

    async def come_back(each: World) -> None:
        hurried.append(await ask_about_page(each.gateway, view))

    async def everything(each: World) -> None:
        await asyncio.gather(
            come_back(each), each.gateway.executor.recover_once(), each.gateway.inbox.handle_once(), come_back(each)
        )
        await each.gateway.executor.recover_once()
        await each.quiet()

    await asyncio.gather(*[everything(each) for each in (world, *others)])
    assert any(hurried)  # else there was no return in this race
    world.clock.advance(timedelta(minutes=2))
    await psp.handle()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.count("transfer") == 4
    assert await world.count("lease") == 0
    assert await world.count("inbox_lease") == 0
    assert await world.count("event", "kind = 'order.succeeded'") == 2
    assert await world.violations() == {}


async def test_C2_what_the_buyer_did_not_pay_is_ended_by_the_provider_s_word_when_he_is_back(store: Store) -> None:
    world = patient(store)
    view = await at_the_page(world)
    assert await ask_about_page(world.gateway, view)
    world.provider.look_ups = [pending, declined]
    assert await look(world) == 2
    assert sorted(order.status for order in (await world.read(view.payment_id)).orders) == ["FAILED", "PENDING"]
    assert world.provider.asked.count(OperationKind.CHARGE.value) == 0
    assert await world.violations() == {}


# over HTTP, with the simulator


def basket(name: str) -> dict[str, Any]:
    return over_http(name, orders=2) | {"payment_method": {"hosted": {"return_url": PAGE}}}


async def _lease(store: Store) -> Any:
    return await store.pool.fetch("SELECT * FROM lease ORDER BY operation_id")


@pytest.mark.parametrize("way_back", ["status page", "shop's GET"])
async def test_C15_a_buyer_who_is_back_sees_that_he_has_paid_though_no_webhook_and_no_poll_tells(
    store: Store, owner: asyncpg.Connection, simulator_url: str, way_back: str
) -> None:
    never: dict[str, Any] = {"retry_base_ms": 86_400_000, "retry_cap_s": 86_400}
    async with run_gateway(store, simulator_url, settings=never) as server:
        key = await server.make_key()
        name = f"c-{way_back[0]}"
        made = await server.pay(key, basket(name), Idempotency_Key="k")
        await owner.execute(
            "UPDATE lease SET answered_at = answered_at - interval '1 minute', due_at = due_at + '1 day'"
        )
        session_id = made.body["next_action"]["redirect_url"].rpartition("/")[2]
        async with server.session.post(
            f"{server.simulator_url}/admin/sessions/{session_id}/pay", json={"token": "tok_approve"}
        ) as paid:
            assert paid.status == 200
        path, before = f"/v1/payments/{made.body['payment_id']}", await _lease(store)
        page, _, token = made.body["status_url"].partition("?token=")
        other = await server.make_key("gloves")
        for wrong in (page, f"{page}?token={token[::-1]}", f"{page}?token={'0' * 32}", f"{page}?token="):
            assert (await server.ask("GET", wrong)).status == 404
        assert (await server.ask("GET", path, other)).status == 404
        assert (await server.ask("GET", path)).status == 401
        assert (await server.ask("GET", "/v1/payments", key)).status == 200
        assert await _lease(store) == before  # none of these has asked anything
        if way_back == "status page":
            back = (await server.ask("GET", f"{made.body['status_url']}&session={session_id}")).raw.decode()
            assert "If you have just paid there, wait a moment" in back
            assert '<meta http-equiv="refresh" content="2">' in back
        else:
            back = (await server.ask("GET", path, key)).body["status"]
            assert back == "PENDING"
        payment_id = parse_id(PAYMENT, made.body["payment_id"])
        assert payment_id is not None
        async with asyncio.timeout(20):
            while (await read_payment(server.gateway, payment_id)).status != "SUCCESS":  # noqa: ASYNC110 - in the database
                await asyncio.sleep(0.02)
        done = await server.ask("GET", path, key)
        assert [order["captured"] for order in done.body["payment_orders"]] == ["12.34", "12.34"]
