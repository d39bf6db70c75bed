"""Who pays for a refund: the commission's share to the last minor unit, or none of it where the platform keeps it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    unknown,
)
from tests.integration.running import checkout as checkout_body
from tests.integration.running import run_gateway, simulator_url
from tests.integration.test_lifecycle import lapsed
from tests.integration.test_replay import differences_of

from coatcheck.ids import operation_id_of, order_id_of
from coatcheck.refunds import RefundAnswer, RefundView
from coatcheck.states import Capture, OnFailure, OperationKind
from coatcheck.store import Store
from coatcheck.validation import PaymentRequest
from coatcheck.wallets import Wallet, wallet

__all__ = ["simulator_url"]

KEEP = replace(SETTINGS, refund_commission="keep")
ORDER_ID = order_id_of(CALLER.shop_id, CALLER.mode, "o1")


def sale(amount_minor: int, commission_minor: int, **more: Any) -> PaymentRequest:
    asked = checkout("c1", "o1", amount_minor=amount_minor, **more)
    orders = tuple(msgspec.structs.replace(order, commission_minor=commission_minor) for order in asked.orders)
    return msgspec.structs.replace(asked, orders=orders)


async def shown(world: World, answer: RefundAnswer) -> RefundView:
    view = await world.gateway.refunds.read(answer.refund_id)
    assert view is not None
    return view


async def assert_books_hold(world: World) -> None:
    assert await world.violations() == {}
    assert await differences_of(world.store) == []


# The share that goes back


@pytest.mark.parametrize(
    ("amount", "commission", "part"), [(1000, 999, 100), (60, 30, 1), (3, 2, 1), (3, 3, 1), (100, 1, 7), (17, 13, 5)]
)
async def test_D13_equal_parts_of_any_commission_go_back_to_the_last_minor_unit(
    store: Store, amount: int, commission: int, part: int
) -> None:
    """Rounding down each share must not leave more of the commission for the last part than that part is."""
    world = World(store)
    await world.pay(sale(amount, commission))
    shares = []
    for number in range(-(-amount // part)):
        left = amount - number * part
        answer = await world.refund("o1", min(part, left), key=f"r{number}")
        assert answer.verdict == "requested"
        view = await shown(world, answer)
        shares.append(view.commission_minor)
        assert 0 <= view.commission_minor <= view.amount_minor
    assert sum(shares) == commission
    assert shares[0] in (commission * part // amount, commission * part // amount + 1)
    assert await world.balances() == {}
    await assert_books_hold(world)


async def test_D13_captures_and_refunds_in_turn_give_back_to_the_last_minor_unit(store: Store) -> None:
    world = World(store)
    view = await world.pay(sale(1000, 997, capture=Capture.MANUAL))
    for number, amount in enumerate((101, 301, 7, 591)):
        assert await world.capture(view, key=f"c{number}", is_final=False, o1=amount) == ["requested"]
        for half in (amount // 2, amount - amount // 2):
            assert (await world.refund("o1", half, key=f"r{number} {half} {world.clock.now()}")).verdict == "requested"
            world.clock.advance(timedelta(seconds=1))
        await assert_books_hold(world)
    assert await world.balances() == {}


# Kept


@pytest.mark.parametrize("amounts", [(1000,), (None,), (400, 600), (333, 333, None), (1, 998, 1), (250, 250)])
async def test_with_keep_the_seller_pays_for_every_refund_and_the_platform_keeps_its_commission(
    store: Store, amounts: tuple[int | None, ...]
) -> None:
    world = World(store, settings=KEEP)
    await world.pay(checkout("c1", "o1"))
    given_back = 0
    for number, amount in enumerate(amounts):
        answer = await world.refund("o1", amount, key=f"r{number}")
        view = await shown(world, answer)
        assert (answer.verdict, view.status, view.commission_minor) == ("requested", "SUCCEEDED", 0)
        given_back += view.amount_minor
        seller, left = 900 - given_back, {"psp_receivable": 1000 - given_back}
        assert await world.balances() == {
            **({} if given_back == 1000 else left),
            **({"seller_pending": seller} if seller else {}),
            "platform_commission": 100,
        }
        assert await wallet(store, CALLER.shop_id, CALLER.mode, "seller-o1") == [Wallet("EUR", seller, 0, 0)]
        await assert_books_hold(world)
    (order,) = await store.pool.fetch("SELECT refund_commission_minor, refunded_minor FROM payment_order")
    assert tuple(order) == (0, given_back)
    assert await world.count("transfer", "kind = 'commission_refund'") == 0


async def test_D6_with_keep_a_refund_that_comes_back_gives_the_seller_all_of_it(store: Store) -> None:
    world = World(store, settings=KEEP)
    await world.pay(checkout("c1", "o1"))
    assert (await world.refund("o1", 250, key="r1")).verdict == "requested"
    before = await world.balances()
    answer = await world.refund("o1", 600, key="r2")
    world.clock.advance(timedelta(days=9))
    operation_id = operation_id_of(ORDER_ID, OperationKind.REFUND, answer.refund_id.hex)
    (held,) = await world.gateway.operations.reopen([operation_id], "the PSP says it failed")
    await world.gateway.executor.settle(held, declined(held.intent))
    assert (await shown(world, answer)).status == "FAILED"
    assert (
        await world.balances()
        == before
        == {
            "psp_receivable": 750,
            "seller_pending": 650,
            "platform_commission": 100,
        }
    )
    await assert_books_hold(world)
    assert (await world.refund("o1", None, key="r3")).verdict == "requested"
    assert await world.balances() == {"seller_pending": -100, "platform_commission": 100}
    await assert_books_hold(world)


async def test_with_keep_a_refund_that_is_declined_or_unknown_moves_nothing_until_it_is_known(store: Store) -> None:
    world = World(store, settings=KEEP)
    await world.pay(checkout("c1", "o1"))
    before = await world.balances()
    world.provider.acts[OperationKind.REFUND] = [declined, unknown, approved]
    assert (await shown(world, await world.refund("o1", 1000, key="r1"))).status == "FAILED"
    assert (await shown(world, await world.refund("o1", 1000, key="r2"))).status == "PENDING"
    assert await world.balances() == before
    await assert_books_hold(world)
    await world.recover()
    assert await world.balances() == {"seller_pending": -100, "platform_commission": 100}
    await assert_books_hold(world)


async def test_a_change_of_the_policy_between_refunds_never_takes_more_than_a_refund_is(store: Store) -> None:
    """What was kept at first is more than the rest of the order: no more of it goes back than that rest."""
    keeping, returning = World(store, settings=KEEP), World(store)
    await keeping.pay(sale(1000, 900))
    assert (await keeping.refund("o1", 900, key="r1")).verdict == "requested"
    answer = await returning.refund("o1", None, key="r2")
    assert (answer.verdict, (await shown(returning, answer)).commission_minor) == ("requested", 100)
    assert await returning.balances() == {"seller_pending": -800, "platform_commission": 800}
    await assert_books_hold(returning)


async def test_with_keep_what_a_checkout_of_all_or_nothing_takes_back_costs_the_sellers_nothing(store: Store) -> None:
    world = World(store, settings=KEEP)
    world.provider.acts[OperationKind.CAPTURE] = [approved, declined]
    await world.pay(checkout("c1", "o1", "o2", on_failure=OnFailure.ALL_OR_NOTHING))
    await world.quiet()
    for _ in range(3):
        await world.recover()
    assert world.provider.asked.count("refund") == 1
    assert await world.balances() == {}
    await assert_books_hold(world)


async def test_A9_with_keep_a_late_success_that_is_given_back_costs_the_seller_nothing(store: Store) -> None:
    """Nothing was sold: the shop had been told that the order is cancelled."""
    world = World(store, ScriptedProvider(), settings=replace(KEEP, late_success="refund"))
    await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    world.provider.look_ups = [lapsed]
    await world.recover()
    (operation_id,) = [row[0] for row in await store.pool.fetch("SELECT operation_id FROM operation")]
    (held,) = await world.gateway.operations.reopen([operation_id], "charge.succeeded")
    await world.gateway.executor.settle(held, approved(held.intent))
    assert await world.gateway.refunds.refund_late(10) == 1
    await world.recover()
    assert await world.balances() == {}
    await assert_books_hold(world)


async def test_the_setting_reaches_the_api(store: Store, simulator_url: str) -> None:
    async with run_gateway(store, simulator_url, settings={"refund_commission": "keep"}) as server:
        key = await server.make_key()
        assert (await server.pay(key, checkout_body("c0"), Idempotency_Key="k")).status == 201
        body = {"payment_order_id": "c0-0", "amount": "2.30"}
        part = await server.ask("POST", "/v1/refunds", key, json=body, headers={"Idempotency-Key": "r"})
        assert (part.status, part.body["commission"]) == (201, "0.00")
        seller = await server.ask("GET", "/v1/sellers/seller-0/wallet", key)
        assert [each["pending"] for each in seller.body["balances"]] == ["9.04"]
