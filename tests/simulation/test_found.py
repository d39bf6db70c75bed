"""What the simulation found in the gateway, each on its own and without luck."""

import dataclasses
from datetime import timedelta

import pytest
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    pending,
    server_error,
    unknown,
)
from tests.simulation.calm import at_the_psp
from tests.simulation.life import GatewayDied

from coatcheck.ids import order_id_of, payment_id_of
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.states import Capture, OnFailure, OperationKind
from coatcheck.store import Store


def dies(_: Intent) -> Outcome:
    raise GatewayDied


def lapsed(_: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.DECLINED, decline_code="expired", is_cancelled=True)


async def run_to_death(world: World, operation: Operation) -> None:
    with pytest.raises(GatewayDied):
        await world.gateway.executor.run(operation)


async def test_A5_A14_a_not_found_from_before_a_death_does_not_allow_another_sending(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True))
    world.provider.charges = [server_error, dies]
    world.provider.look_ups = [not_found] * 9
    await world.pay(checkout())
    await world.recover()  # not found, once
    world.clock.advance(timedelta(minutes=2))
    (third,) = await world.gateway.operations.claim(1)
    await run_to_death(world, third)  # not found twice: sent again, charged, and nobody lives to write it down
    await world.recover(timedelta(seconds=31))  # the lease is over, and the PSP's search still lags behind
    assert world.provider.asked.count("charge") == 2
    await world.recover()  # a second look-up that is late enough may be believed
    assert world.provider.asked.count("charge") == 3


async def test_a_pending_charge_is_asked_about_until_it_is_decided_whatever_one_answer_says(store: Store) -> None:
    settings = dataclasses.replace(SETTINGS, retry_budget_attempts=3)
    world = World(store, settings=settings)
    world.provider.charges = [pending]
    world.provider.look_ups = [pending, pending, pending, unknown, approved]
    await world.pay(checkout())
    for _ in range(5):
        await world.recover()
    assert (await world.read(payment_id_of(CALLER.shop_id, CALLER.mode, "c1"))).status == "SUCCESS"


async def test_D5_when_a_part_was_captured_and_the_rest_lapses_the_order_ends(store: Store) -> None:
    """The PSP calls such a charge succeeded: nothing more can be captured, and nothing is held any more."""
    world, _ = at_the_psp(store)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    await world.capture(view, is_final=False, o1=400)
    world.clock.advance(timedelta(days=8))
    for _ in range(3):
        await world.gateway.upkeep.tend_once()
        await world.quiet()
        world.clock.advance(timedelta(hours=2))
    order = (await world.read(view.payment_id)).orders[0]
    assert (order.status, order.captured_minor) == ("SUCCESS", 400)
    assert await world.balances() == {"psp_receivable": 400, "seller_pending": 360, "platform_commission": 40}
    assert await world.count("authorization_watch") == 0
    assert await world.violations() == {}


async def test_D4_a_void_of_what_was_pending_releases_what_was_reserved_meanwhile(store: Store) -> None:
    world, psp = at_the_psp(store)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL, token="tok_pending"))
    assert view.status == "PENDING"
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
    act = await world.gateway.acts.cancel(view.payment_id, [order_id], "v1")  # committed, and not yet sent
    psp.bank.settle(psp.bank.page(0, 1)[0].id, "succeeded")
    await world.recover(timedelta(seconds=20))  # the void's lease still runs; the authorization is asked about
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    await world.gateway.executor.start(act.operations)
    await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_D4_D5_an_authorization_that_lapses_under_an_unresolved_capture_waits_in_quiet(store: Store) -> None:
    world = World(store, settings=dataclasses.replace(SETTINGS, retry_budget_attempts=2))
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    world.provider.acts[OperationKind.CAPTURE] = [unknown]
    await world.capture(view)
    await world.recover(timedelta(days=2))
    assert await world.count("operation", "kind = 'capture' AND status = 'UNRESOLVED'") == 1
    world.provider.look_ups = [lapsed] * 9
    world.clock.advance(timedelta(days=8))
    await world.gateway.upkeep.tend_once()
    while world.gateway.executor._running:
        await next(iter(world.gateway.executor._running))  # raises what the task raised
    for _ in range(3):
        await world.recover()
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    assert await world.violations() == {}


async def test_D6_a_refund_that_returns_to_a_half_undone_checkout_is_no_violation(store: Store) -> None:
    """The money came back from the buyer's bank: that is a person's turn, and the refund says so itself."""
    world = World(store)
    world.provider.acts[OperationKind.CAPTURE] = [approved, declined]
    view = await world.pay(checkout("c1", "o1", "o2", on_failure=OnFailure.ALL_OR_NOTHING))
    await world.quiet()
    for _ in range(3):
        await world.recover()
    assert await world.balances() == {}
    (refund,) = await world.store.pool.fetch("SELECT operation_id FROM operation WHERE kind = 'refund'")
    (held,) = await world.gateway.operations.reopen([refund["operation_id"]], "the PSP says it came back")
    await world.gateway.executor.settle(held, declined(held.intent))
    assert (await world.balances())["psp_receivable"] == 1000
    assert (await world.read(view.payment_id)).is_done
    assert await world.violations() == {}
