"""Authorize, capture, void, refund and all-or-nothing: what the books say after each, and who wins a race."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Literal
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from tests.integration.locks import until_waiting
from tests.integration.outside import (
    CALLER,
    SETTINGS,
    ScriptedProvider,
    World,
    approved,
    checkout,
    declined,
    not_found,
    not_sent,
    pending,
    server_error,
    unknown,
)

from coatcheck.config import Settings
from coatcheck.ids import operation_id_of, order_id_of, refund_id_of
from coatcheck.payments import PaymentView
from coatcheck.payments.effects import commission_of
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.refunds import RefundVerdict
from coatcheck.states import Capture, OnFailure, OperationKind, OrderStatus
from coatcheck.store import Store

MANUAL, TOGETHER = Capture.MANUAL, OnFailure.ALL_OR_NOTHING
AUTHORIZE, CAPTURE, VOID, REFUND = (
    OperationKind.AUTHORIZE,
    OperationKind.CAPTURE,
    OperationKind.VOID,
    OperationKind.REFUND,
)


def lapsed(intent: Intent) -> Outcome:
    return Outcome(
        kind=OutcomeKind.DECLINED,
        decline_code="authorization_expired",
        is_cancelled=True,
        reference=intent.reference,
    )


async def test_an_authorization_holds_and_a_capture_posts(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    assert view.status == "AUTHORIZED"
    assert await world.balances() == {
        "psp_receivable.held": 1000,
        "seller_pending.held": 900,
        "platform_commission.held": 100,
    }
    assert await world.violations() == {}
    assert await world.capture(view) == ["requested"]
    view = await world.read(view.payment_id)
    assert (view.status, view.orders[0].captured_minor) == ("SUCCESS", 1000)
    assert await world.balances() == {"psp_receivable": 1000, "seller_pending": 900, "platform_commission": 100}
    assert await world.violations() == {}


async def test_D5_parts_are_captured_and_the_rest_is_released(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL, amount_minor=1001))
    assert await world.capture(view, key="first", is_final=False, o1=333) == ["requested"]
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    assert await world.violations() == {}
    assert await world.capture(view, key="too-much", o1=669) == ["too_much"]
    assert await world.capture(view, key="second", o1=444) == ["requested"]
    order = (await world.read(view.payment_id)).orders[0]
    assert (order.status, order.captured_minor, order.authorized_minor) == ("SUCCESS", 777, 1001)
    assert await world.balances() == {"psp_receivable": 777, "seller_pending": 700, "platform_commission": 77}
    assert await world.violations() == {}


async def test_a_void_releases_all(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    assert await world.cancel(view) == ["requested"]
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.violations() == {}
    assert await world.cancel(view) == ["exists"]
    assert await world.cancel(view, key="v2") == ["done"]
    assert world.provider.asked == ["authorize", "void"]


async def test_a_void_after_a_part_was_captured_keeps_that_part(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    await world.capture(view, is_final=False, o1=400)
    assert await world.cancel(view) == ["requested"]
    order = (await world.read(view.payment_id)).orders[0]
    assert (order.status, order.captured_minor) == ("SUCCESS", 400)
    assert await world.balances() == {"psp_receivable": 400, "seller_pending": 360, "platform_commission": 40}
    assert await world.violations() == {}


async def test_D4_of_captures_and_voids_at_once_one_wins(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    asked = [world.capture(view, key=f"c{n}") for n in range(8)] + [world.cancel(view, key=f"v{n}") for n in range(8)]
    verdicts = [verdict for answer in await asyncio.gather(*asked) for verdict in answer]
    assert verdicts.count("requested") == 1
    assert sum(world.provider.asked.count(kind) for kind in ("capture", "void")) == 1
    assert await world.violations() == {}


async def test_D4_an_unknown_capture_blocks_the_void_until_it_is_known(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[CAPTURE] = [unknown]
    await world.capture(view)
    assert await world.cancel(view) == ["busy"]
    await world.recover()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    sent = {(intent.reference, intent.amount_minor) for call, intent in world.provider.calls if call == "capture"}
    assert len(sent) == 1
    assert await world.violations() == {}


async def test_a_capture_key_asked_again_captures_once_and_with_another_amount_is_refused(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    assert await world.capture(view, is_final=False, o1=300) == ["requested"]
    assert await world.capture(view, is_final=False, o1=300) == ["exists"]
    assert await world.capture(view, is_final=False, o1=301) == ["key_reused"]
    assert (await world.read(view.payment_id)).orders[0].captured_minor == 300


async def test_of_several_orders_all_are_captured_or_none(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", "o2", capture=MANUAL))
    assert await world.capture(view, o1=500, o2=5000) == ["held_back", "too_much"]
    assert world.provider.asked.count("capture") == 0
    assert await world.capture(view, o1=500, o2=1000) == ["requested", "requested"]
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.violations() == {}


async def test_a_declined_capture_may_be_tried_again(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[CAPTURE] = [declined]
    await world.capture(view)
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    assert await world.violations() == {}
    assert await world.capture(view, key="again") == ["requested"]
    assert (await world.read(view.payment_id)).status == "SUCCESS"


async def test_D5_a_capture_that_finds_the_authorization_expired_cancels_the_order(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[CAPTURE] = [lapsed]
    await world.capture(view)
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.count("authorization_watch") == 0
    assert await world.violations() == {}


async def test_a_charged_payment_cannot_be_cancelled(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", "o2"))
    assert await world.cancel(view) == ["charged", "charged"]


async def test_D4_D5_an_approval_and_the_void_of_it_that_are_booked_by_one_commit_leave_no_hold_behind(
    store: Store,
) -> None:
    """Found by the simulation: the void was worked out while nothing was held, and was booked beside the approval."""
    world = World(store)
    at_psp = {"provider_reference": "ch_1"}
    world.provider.acts[AUTHORIZE] = [lambda intent: msgspec.structs.replace(pending(intent), **at_psp)]
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
    world.clock.advance(timedelta(minutes=2))
    (authorization,) = await world.gateway.operations.claim(1)  # its PSP is asked, and meanwhile it is cancelled
    act = await world.gateway.acts.cancel(view.payment_id, [order_id], "v1")
    (void,) = act.operations
    world.provider.look_ups = [approved] * 3
    await asyncio.gather(
        *[
            world.gateway.executor.settle(each, msgspec.structs.replace(approved(each.intent), **at_psp))
            for each in (authorization, void)
        ]
    )
    await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_a_pending_order_is_cancelled_at_the_psp_and_then_nobody_books_its_charge(store: Store) -> None:
    world = World(store)
    world.provider.charges = [lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")]
    view = await world.pay(checkout("c1", "o1"))
    assert view.status == "PENDING"
    assert await world.cancel(view) == ["requested"]
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.count("lease") == 0
    assert await world.violations() == {}
    (void,) = [intent for call, intent in world.provider.calls if call == "void"]
    assert void.target_reference == "ch_1"


async def test_D1_32_refunds_at_once_never_exceed_what_was_captured(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    answers = await asyncio.gather(*[world.refund("o1", 100, key=f"r{n}") for n in range(32)])
    assert [answer.verdict for answer in answers].count(RefundVerdict.REQUESTED) == 10
    assert world.provider.asked.count("refund") == 10
    assert await world.balances() == {}
    assert await world.violations() == {}


@pytest.mark.parametrize("gateways", [1, 4])
async def test_D1_D4_G1_of_captures_and_refunds_at_once_one_capture_wins_and_what_is_captured_goes_back(
    store: Store, gateways: int
) -> None:
    """All meet while 300 is captured, and their answers are booked at once, by one process or by several."""
    worlds = [World(store) for _ in range(gateways)]
    first = worlds[0]
    view = await first.pay(checkout("c1", "o1", capture=MANUAL))
    assert await first.capture(view, key="c", is_final=False, o1=300) == ["requested"]
    for world in worlds:
        world.provider.line_is_free.clear()
    captures = [
        asyncio.create_task(worlds[n % gateways].capture(view, key=f"c{n}", is_final=False, o1=100)) for n in range(8)
    ]
    refunds = [asyncio.create_task(worlds[(n + 1) % gateways].refund("o1", 100, key=f"r{n}")) for n in range(8)]
    async with asyncio.timeout(60):
        while sum(asked.done() for asked in (*captures, *refunds)) < 12:  # noqa: ASYNC110 - all but those who won
            await asyncio.sleep(0.01)
    for world in worlds:
        world.provider.line_is_free.set()
    assert sorted(verdict for (verdict,) in await asyncio.gather(*captures)) == ["busy"] * 7 + ["requested"]
    verdicts = [answer.verdict for answer in await asyncio.gather(*refunds)]
    assert (verdicts.count(RefundVerdict.REQUESTED), verdicts.count(RefundVerdict.TOO_MUCH)) == (3, 5)
    order = (await first.read(view.payment_id)).orders[0]
    assert (order.captured_minor, order.refunded_minor, order.status) == (400, 300, "AUTHORIZED")
    calls = [call for world in worlds for call in world.provider.asked]
    assert (calls.count("capture"), calls.count("refund")) == (2, 3)
    assert await first.balances() == {
        "psp_receivable": 100,
        "psp_receivable.held": 600,
        "seller_pending": 90,
        "seller_pending.held": 540,
        "platform_commission": 10,
        "platform_commission.held": 60,
    }
    assert await first.violations() == {}
    assert await first.capture(view, key="rest") == ["requested"]
    assert (await first.refund("o1", key="rest")).verdict == "requested"
    assert await first.balances() == {}
    assert await first.violations() == {}


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_G1_G3_who_waits_for_the_order_s_one_row_judges_by_what_is_there_then(
    store: Store, owner: asyncpg.Connection, ending: str
) -> None:
    """The first refund of all: there is no other refund's row yet that both could have locked."""
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
    other = owner.transaction()
    await other.start()
    verdict = await owner.fetchval(
        "SELECT request_refund($1, NULL, NULL, $2, $3, 700, true, 'k', 'digest', NULL, $4, $5)",
        *(world.clock.now(), uuid4(), order_id, uuid4(), uuid4()),
    )
    assert verdict == "requested"
    waiting = asyncio.create_task(world.refund("o1", 700))
    await until_waiting(owner)
    await (other.commit() if ending == "commit" else other.rollback())
    assert (await waiting).verdict == ("too_much" if ending == "commit" else "requested")
    assert await world.count("refund") == 1
    assert await store.pool.fetchval("SELECT refund_reserved_minor FROM payment_order") == 700
    assert await world.violations() == {}


async def test_D2_a_refund_s_key_gives_back_once(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    first = await world.refund("o1", 400)
    again = await world.refund("o1", 400)
    assert (first.verdict, again.verdict, first.refund_id) == ("requested", "exists", again.refund_id)
    assert (await world.refund("o1", 401)).verdict == "key_reused"
    assert (await world.refund("o1", 601, key="r2")).verdict == "too_much"
    assert world.provider.asked.count("refund") == 1
    assert await world.violations() == {}


@pytest.mark.parametrize("amounts", [(1, 1, 1, 1000), (333, 333, 337), (999, 4), (1003,)])
async def test_D13_the_commission_goes_back_to_the_last_minor_unit(store: Store, amounts: tuple[int, ...]) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1", amount_minor=1003))
    for number, amount in enumerate(amounts):
        assert (await world.refund("o1", amount, key=f"r{number}")).verdict == "requested"
        assert await world.violations() == {}
    assert await world.balances() == {}


async def test_a_failed_refund_makes_room_for_another(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    world.provider.acts[REFUND] = [declined]
    first = await world.refund("o1")
    assert (await world.gateway.refunds.read(first.refund_id)).status == "FAILED"  # type: ignore[union-attr]
    assert (await world.balances())["psp_receivable"] == 1000
    assert (await world.refund("o1", key="r2")).verdict == "requested"
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_a_pending_refund_keeps_its_room_and_posts_when_the_psp_says_so(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    world.provider.acts[REFUND] = [pending]
    answer = await world.refund("o1")
    assert (await world.refund("o1", 1, key="r2")).verdict == "too_much"
    assert (await world.balances())["psp_receivable"] == 1000
    world.provider.look_ups = [approved]
    await world.recover()
    assert (await world.gateway.refunds.read(answer.refund_id)).status == "SUCCEEDED"  # type: ignore[union-attr]
    assert world.provider.asked.count("refund") == 1
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_D6_a_refund_that_comes_back_days_later_restores_the_books(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    before = await world.balances()
    answer = await world.refund("o1", 600)
    order_id = await world.store.pool.fetchval("SELECT order_id FROM payment_order")
    world.clock.advance(timedelta(days=9))
    operation_id = operation_id_of(order_id, REFUND, answer.refund_id.hex)
    (held,) = await world.gateway.operations.reopen([operation_id], "the PSP says it failed")
    await world.gateway.executor.settle(held, declined(held.intent))
    assert (await world.gateway.refunds.read(answer.refund_id)).status == "FAILED"  # type: ignore[union-attr]
    assert await world.balances() == before
    assert await world.violations() == {}
    assert (await world.refund("o1", 1000, key="r2")).verdict == "requested"
    assert await world.violations() == {}


async def test_nothing_is_refunded_before_it_is_captured(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1", capture=MANUAL))
    assert (await world.refund("o1")).verdict == "not_captured"
    assert (await world.refund("nobody")).verdict == "unknown"


async def test_A3_a_refund_is_not_sent_again_after_the_window(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    world.provider.acts[REFUND] = [unknown]
    await world.refund("o1")
    for _ in range(5):
        await world.recover(timedelta(days=2))
    assert world.provider.asked.count("refund") == 1
    assert world.provider.asked.count("look_up") == 5


async def test_all_or_nothing_captures_when_all_are_authorized(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", "o2", "o3", on_failure=TOGETHER))
    await world.quiet()
    view = await world.read(view.payment_id)
    assert view.status == "SUCCESS"
    assert sorted(world.provider.asked) == ["authorize"] * 3 + ["capture"] * 3
    assert (await world.balances())["psp_receivable"] == 3000
    assert await world.violations() == {}


async def test_all_or_nothing_voids_when_one_is_declined(store: Store) -> None:
    world = World(store)
    world.provider.acts[AUTHORIZE] = [approved, declined, approved]
    view = await world.pay(checkout("c1", "o1", "o2", "o3", on_failure=TOGETHER))
    await world.quiet()
    view = await world.read(view.payment_id)
    assert sorted(order.status for order in view.orders) == ["CANCELLED", "CANCELLED", "FAILED"]
    assert world.provider.asked.count("void") == 2
    assert "capture" not in world.provider.asked
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_all_or_nothing_gives_back_what_it_captured_when_a_capture_is_refused(store: Store) -> None:
    world = World(store)
    world.provider.acts[CAPTURE] = [approved, declined]
    await world.pay(checkout("c1", "o1", "o2", on_failure=TOGETHER))
    await world.quiet()
    for _ in range(3):
        await world.recover()
    assert sorted(world.provider.asked) == ["authorize", "authorize", "capture", "capture", "refund", "void"]
    assert await world.balances() == {}
    assert await world.count("checkout_decision", "decision = 'undo'") == 1
    assert await world.violations() == {}


async def test_all_or_nothing_waits_for_the_unknown(store: Store) -> None:
    world = World(store)
    world.provider.acts[AUTHORIZE] = [approved, unknown]
    await world.pay(checkout("c1", "o1", "o2", on_failure=TOGETHER))
    await world.quiet()
    assert "capture" not in world.provider.asked
    await world.recover()
    await world.quiet()
    assert world.provider.asked.count("capture") == 2
    assert await world.violations() == {}


async def test_a_crash_after_all_were_authorized_is_finished_by_another_process(store: Store) -> None:
    dead, alive = World(store), World(store)
    accepted = await dead.accept(checkout("c1", "o1", "o2", on_failure=TOGETHER))
    for operation in accepted.operations:
        await dead.gateway.payments.apply(operation, msgspec.structs.replace(approved(operation.intent)))
    assert await alive.count("operation", "kind = 'capture'") == 2  # decided in the last authorization's own commit
    await alive.recover()
    view = await alive.read(accepted.payment_id)
    assert view.status == "SUCCESS"
    assert await alive.violations() == {}


async def test_both_orders_decided_at_once_still_decide_the_checkout_once(store: Store) -> None:
    worlds = [World(store) for _ in range(4)]
    for number in range(10):
        accepted = await worlds[0].accept(
            checkout(f"c{number}", f"a{number}", f"b{number}", on_failure=TOGETHER), f"k{number}"
        )
        await asyncio.gather(
            *[
                worlds[place].gateway.payments.apply(operation, approved(operation.intent))
                for place, operation in enumerate(accepted.operations)
            ]
        )
    assert await worlds[0].count("checkout_decision") == 10
    assert await worlds[0].count("operation", "kind = 'capture'") == 20
    assert await worlds[0].violations() == {}


async def test_a_hosted_page_is_registered_once_and_only_asked_about(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    assert (view.status, view.redirect_url) == ("PENDING", "https://psp.example/page/cs_1")
    world.provider.look_ups = [pending, approved]
    await world.recover()
    await world.recover()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert world.provider.asked == ["register", "look_up", "look_up"]
    assert await world.violations() == {}


async def test_A3_the_window_of_a_page_is_that_of_all_its_orders(store: Store) -> None:
    """Found by the simulation: an order whose own calls had never left made a second page after the key's time."""
    world = World(store)
    world.provider.registers = [pending, not_sent]
    view = await world.pay(checkout("c1", "o1", "o2", return_url="https://shop.example/"))
    assert world.provider.asked == ["register", "register"]
    world.provider.look_ups = [not_found] * 9
    await world.recover(timedelta(hours=25))
    assert world.provider.asked[2:] == ["look_up", "look_up"]
    assert not (await world.read(view.payment_id)).is_done
    assert await world.violations() == {}


async def test_a_page_ends_by_the_provider_s_word_never_by_ours(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    world.provider.look_ups = [pending] * 30 + [
        lambda intent: msgspec.structs.replace(lapsed(intent), decline_code="page_expired")
    ]
    for _ in range(30):
        await world.recover(timedelta(days=2))
    assert (await world.read(view.payment_id)).status == "PENDING"
    await world.recover(timedelta(days=2))
    order = (await world.read(view.payment_id)).orders[0]
    assert (order.status, order.decline_code) == (OrderStatus.CANCELLED, "page_expired")
    assert await world.violations() == {}


@pytest.mark.parametrize("policy", ["honour", "refund"])
async def test_A9_a_success_after_the_end_is_booked_and_policy_decides(
    store: Store, policy: Literal["honour", "refund"]
) -> None:
    world = World(store, ScriptedProvider(), settings=replace(SETTINGS, late_success=policy))
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    world.provider.look_ups = [lapsed]
    await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    (operation_id,) = [row[0] for row in await store.pool.fetch("SELECT operation_id FROM operation")]
    (held,) = await world.gateway.operations.reopen([operation_id], "charge.succeeded")
    await world.gateway.executor.settle(held, approved(held.intent))
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert (await world.balances())["psp_receivable"] == 1000
    assert await world.gateway.refunds.refund_late(10) == (1 if policy == "refund" else 0)
    assert await world.gateway.refunds.refund_late(10) == 0
    await world.recover()
    assert (await world.balances()).get("psp_receivable", 0) == (0 if policy == "refund" else 1000)
    assert await world.violations() == {}


async def give_up(world: World, end: str) -> None:
    """Let a checkout's authorization end before it was approved: declined, lapsed on its page, or cancelled there."""
    world.provider.acts[AUTHORIZE] = [
        declined
        if end == "declined"
        else lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")
    ]
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    if end == "lapsed":
        world.provider.look_ups = [lapsed]
        await world.recover()
    elif end == "cancelled":
        await world.cancel(view)
    assert (await world.read(view.payment_id)).status == ("FAILED" if end == "declined" else "CANCELLED")


async def approve_late(world: World) -> PaymentView:
    """Let the PSP say that it reserved the money after all."""
    operation_ids = await world.store.pool.fetch("SELECT operation_id FROM operation WHERE kind = 'authorize'")
    (held,) = await world.gateway.operations.reopen([row["operation_id"] for row in operation_ids], "charge.authorized")
    assert await world.gateway.executor.settle(held, approved(held.intent)) is not None
    return await world.read(held.payment_id)


def policy_of(policy: str) -> Settings:
    return replace(SETTINGS, late_success="refund" if policy == "refund" else "honour")


@pytest.mark.parametrize("end", ["declined", "lapsed", "cancelled"])
async def test_A9_a_late_authorization_is_voided_at_once_where_policy_gives_back(store: Store, end: str) -> None:
    world = World(store, settings=policy_of("refund"))
    await give_up(world, end)
    asked = len(world.provider.asked)
    view = await approve_late(world)
    assert (view.status, view.is_settling) == ("AUTHORIZED", True)
    assert await world.capture(view) == ["busy"]  # the void is made in the same commit: nobody comes between
    assert await world.gateway.refunds.refund_late(10) == 0
    assert await world.violations() == {}
    await world.recover(timedelta(0))
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert world.provider.asked[asked:] == ["void"]
    assert await world.balances() == {}
    assert await world.count("late_success") == 0
    assert await world.count("event", "kind = 'order.authorized_late'") == 1
    assert await world.count("event", "kind = 'order.authorized'") == 0
    assert await world.count("refund") == 0
    assert await world.violations() == {}
    await approve_late(world)  # old news
    await world.recover()
    assert world.provider.asked[asked:] == ["void"]
    assert (await world.read(view.payment_id)).status == "CANCELLED"


@pytest.mark.parametrize("end", ["declined", "lapsed", "cancelled"])
async def test_A9_a_late_authorization_that_is_honoured_waits_for_the_shop(store: Store, end: str) -> None:
    world = World(store, settings=policy_of("honour"))
    await give_up(world, end)
    view = await approve_late(world)
    await world.recover()
    assert ((await world.read(view.payment_id)).status, view.is_settling) == ("AUTHORIZED", False)
    assert await world.count("event", "kind = 'order.authorized_late'") == 1
    assert await world.capture(view) == ["requested"]
    assert (await world.balances())["psp_receivable"] == 1000
    assert await world.gateway.refunds.refund_late(10) == 0
    assert await world.violations() == {}


async def test_A9_the_void_of_a_late_authorization_is_made_once_whoever_dies(store: Store) -> None:
    dead = World(store, settings=policy_of("refund"))
    await give_up(dead, "lapsed")
    view = await approve_late(dead)  # ... and it dies
    alive = World(store, clock=dead.clock, settings=policy_of("refund"))
    alive.provider.acts[VOID] = [unknown, approved]
    for _ in range(3):
        await alive.recover()
    assert (await alive.read(view.payment_id)).status == "CANCELLED"
    (void_id,) = {intent.operation_id for call, intent in alive.provider.calls if call == "void"}
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
    assert void_id == operation_id_of(order_id, VOID, f"late-success {order_id}")
    assert await alive.balances() == {}
    assert await alive.violations() == {}


async def test_A9_D4_a_late_authorization_whose_void_by_the_shop_is_refused_is_voided_by_policy(store: Store) -> None:
    """The page expired while the shop's void was under way, and then the buyer had paid it after all."""
    world = World(store, settings=policy_of("refund"))
    world.provider.acts[AUTHORIZE] = [
        lambda intent: msgspec.structs.replace(pending(intent), provider_reference="ch_1")
    ]
    world.provider.acts[VOID] = [unknown, declined, approved]
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    await world.cancel(view)
    world.clock.advance(timedelta(minutes=2))
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, "o1")
    (held,) = await world.gateway.operations.claim_named([operation_id_of(order_id, AUTHORIZE)])
    await world.gateway.executor.settle(held, lapsed(held.intent))
    view = await approve_late(world)
    assert (view.status, view.is_settling) == ("AUTHORIZED", True)
    assert await world.count("operation", "kind = 'void'") == 1  # one at a time
    assert await world.count("late_success") == 1
    assert await world.violations() == {}
    await world.recover()
    assert await world.count("operation", "kind = 'void'") == 2
    assert await world.violations() == {}
    await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.count("late_success") == 0
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_A9_what_is_captured_of_a_late_authorization_all_the_same_is_refunded_by_policy(store: Store) -> None:
    world = World(store, settings=policy_of("refund"))
    await give_up(world, "lapsed")
    view = await approve_late(world)
    world.provider.acts[VOID] = [declined]
    await world.recover()
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    world.provider.look_ups = [approved]
    assert await world.gateway.upkeep.tend_once() == 1  # refused: so the PSP is asked at once whether it lives
    await world.quiet()
    assert await world.capture(view, o1=400) == ["requested"]
    assert (await world.balances())["psp_receivable"] == 400
    assert await world.gateway.refunds.refund_late(10) == 1
    await world.recover()
    assert await world.gateway.refunds.refund_late(10) == 0
    assert await world.balances() == {}
    assert world.provider.asked.count("void") == 1
    assert await world.violations() == {}


@pytest.mark.parametrize("policy", ["honour", "refund"])
async def test_A9_of_an_all_or_nothing_checkout_a_late_authorization_is_voided_once_whatever_the_policy(
    store: Store, policy: str
) -> None:
    world = World(store, settings=policy_of(policy))
    world.provider.acts[AUTHORIZE] = [declined, approved]
    view = await world.pay(checkout("c1", "o1", "o2", on_failure=TOGETHER))
    await world.quiet()
    assert sorted(order.status for order in (await world.read(view.payment_id)).orders) == ["CANCELLED", "FAILED"]
    operation_id = await store.pool.fetchval("SELECT operation_id FROM operation WHERE status = 'DECLINED'")
    (held,) = await world.gateway.operations.reopen([operation_id], "charge.authorized")
    await world.gateway.executor.settle(held, approved(held.intent))
    await world.quiet()
    await world.recover()
    assert [order.status for order in (await world.read(view.payment_id)).orders] == ["CANCELLED", "CANCELLED"]
    assert world.provider.asked.count("void") == 2
    order_ids = [order_id_of(CALLER.shop_id, CALLER.mode, name) for name in ("o1", "o2")]
    voids = {intent.operation_id for call, intent in world.provider.calls if call == "void"}
    assert voids == {operation_id_of(order_id, VOID, "all-or-nothing") for order_id in order_ids}
    assert await world.count("late_success") == 0
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_A9_a_part_that_the_shop_gave_back_first_leaves_the_rest_to_the_policy(store: Store) -> None:
    world = World(store, settings=policy_of("refund"))
    world.provider.charges = [declined]
    await world.pay(checkout("c1", "o1"))
    operation_id = await store.pool.fetchval("SELECT operation_id FROM operation")
    (held,) = await world.gateway.operations.reopen([operation_id], "charge.succeeded")
    await world.gateway.executor.settle(held, approved(held.intent))
    assert (await world.refund("o1", 100)).verdict == "requested"
    assert await world.gateway.refunds.refund_late(10) == 1
    await world.recover()
    assert await world.balances() == {}
    assert await world.count("late_success") == 0
    assert await world.violations() == {}


async def test_sql_and_python_make_the_same_tickets_and_shares(store: Store) -> None:
    order_id, shop_id = uuid4(), uuid4()
    assert await store.pool.fetchval("SELECT operation_id_of($1, 'capture', 'ключ-1')", order_id) == operation_id_of(
        order_id, "capture", "ключ-1"
    )
    assert await store.pool.fetchval("SELECT refund_id_of($1, 'live', 'k 1')", shop_id) == refund_id_of(
        shop_id, "live", "k 1"
    )
    for commission, whole, part in ((0, 1, 1), (1, 3, 2), (999, 1000, 333), (2**53 - 1, 2**53 - 1, 2**52), (7, 10, 0)):
        told = await store.pool.fetchval(
            "SELECT commission_of($1::bigint, $2::bigint, $3::bigint)", commission, whole, part
        )
        assert told == commission_of(commission, whole, part)


async def test_D5_a_lapse_waits_for_the_capture_that_is_under_way(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=MANUAL))
    world.provider.acts[CAPTURE] = [unknown]
    await world.capture(view)
    (operation_id,) = [row[0] for row in await store.pool.fetch("SELECT operation_id FROM authorization_watch")]
    (held,) = await world.gateway.operations.reopen([operation_id], "time to ask")
    assert await world.gateway.executor.settle(held, lapsed(held.intent)) is None
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    assert await world.violations() == {}
    world.provider.look_ups = [lapsed] * 9  # the PSP says so of both
    world.provider.acts[CAPTURE] = [lapsed]
    for _ in range(3):
        await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_B2_captures_at_once_under_one_key_for_different_orders_are_one_request(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", "o2", capture=MANUAL))
    asked = [world.capture(view, key="k", o1=None), world.capture(view, key="k", o2=None)]
    asked += [world.capture(view, key="k", o1=None), world.capture(view, key="k", o2=None)]
    verdicts = await asyncio.gather(*asked)
    assert sorted({verdict for (verdict,) in verdicts}) == ["exists", "key_reused", "requested"]
    assert world.provider.asked.count("capture") == 1
    assert await world.violations() == {}


async def test_a_page_whose_registration_was_answered_by_an_error_is_made_at_the_next_look(store: Store) -> None:
    world = World(store, ScriptedProvider(replays_errors=True))
    world.provider.registers = [server_error]
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    assert view.status == "EXECUTING"
    await world.recover()
    assert world.provider.asked == ["register", "look_up", "register"]
    assert (await world.read(view.payment_id)).redirect_url == "https://psp.example/page/cs_1"


async def test_A5_a_psp_that_forgets_its_errors_is_asked_twice_before_the_page_is_made_again(store: Store) -> None:
    world = World(store, ScriptedProvider(look_up_before_resend=True, look_up_lag=timedelta(minutes=1)))
    world.provider.registers = [server_error]
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    await world.recover()
    assert world.provider.asked == ["register", "look_up"]
    await world.recover()
    assert world.provider.asked == ["register", "look_up", "look_up", "register"]
    assert (await world.read(view.payment_id)).redirect_url == "https://psp.example/page/cs_1"
