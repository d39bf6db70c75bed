"""What PSPs tell us unasked: stored once, handled by anybody, one effect and one end in whatever order it comes."""

import asyncio
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

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
    pending,
    server_error,
    unknown,
)

from coatcheck.disputes import NewsOutcome
from coatcheck.ids import OPERATION, operation_id_of, order_id_of, print_id
from coatcheck.inbox import EventOutcome
from coatcheck.operations import Operation
from coatcheck.providers.disputes import DisputeNews
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent, WebhookRefusedError
from coatcheck.states import Capture, Mode, OperationKind
from coatcheck.store import Store
from coatcheck.wiring import make_watcher

SECRET = "whsec_simulator"


def lapsed(intent: Intent) -> Outcome:
    return Outcome(kind=OutcomeKind.DECLINED, is_cancelled=True, decline_code="expired", reference=intent.reference)


def reference_of(name: str, kind: OperationKind = OperationKind.CHARGE, ticket: str = "1") -> str:
    order_id = order_id_of(CALLER.shop_id, CALLER.mode, name)
    return print_id(OPERATION, operation_id_of(order_id, kind, ticket))


def charge(name: str, status: str, *, kind: OperationKind = OperationKind.CHARGE, **more: Any) -> dict[str, Any]:
    reference = reference_of(name, kind)
    return {
        "id": f"ch_{reference}",
        "status": status,
        "amount": 1000,
        "currency": "EUR",
        "reference": reference,
        "decline_code": None,
        "livemode": False,
        "created": 1,
        "amount_captured": 0,
        "amount_refunded": 0,
        "expires_at": None,
        "disputed": False,
        **more,
    }


def dispute(name: str, status: str = "needs_response", **more: Any) -> dict[str, Any]:
    """A dispute of an order's charge, in the simulator's words."""
    reference = reference_of(name)
    return {
        "id": "dp_1",
        "object": "dispute",
        "charge": f"ch_{reference}",
        "reference": reference,
        "amount": 1000,
        "currency": "EUR",
        "fee": 1500,
        "reason": "fraudulent",
        "status": status,
        "evidence_due": None,
        "livemode": False,
        "created": 1,
        "version": 1,
        "evidence": [],
        "movements": [],
        **more,
    }


class Psp:
    """Sends signed events to a world's inbox, as the simulator does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent = 0

    def event(self, type_: str, subject: dict[str, Any], event_id: str = "") -> bytes:
        self.sent += 1
        return json.dumps(
            {
                "id": event_id or f"evt_{self.sent}",
                "type": type_,
                "created": int(self.world.clock.now().timestamp()),
                "livemode": False,
                "account": "coatcheck",
                "data": {"object": subject},
            }
        ).encode()

    async def send(self, raw: bytes) -> int:
        at = int(self.world.clock.now().timestamp())
        signature = hmac.new(SECRET.encode(), f"{at}.".encode() + raw, hashlib.sha256).hexdigest()
        headers = {"simulator-signature": f"t={at},v1={signature}"}
        (reader,) = self.world.gateway.webhooks.values()
        return await self.world.gateway.inbox.store(
            "simulator", Mode.TEST, headers, reader.receive(headers, raw, self.world.clock.now())
        )

    async def tell(self, type_: str, subject: dict[str, Any], event_id: str = "") -> None:
        await self.send(self.event(type_, subject, event_id))
        await self.handle()

    async def handle(self) -> None:
        while await self.world.gateway.inbox.handle_once():
            pass
        await self.world.quiet()

    async def outcomes(self) -> list[str | None]:
        rows = await self.world.store.pool.fetch("SELECT outcome FROM inbox ORDER BY received_at, event_id")
        return [row["outcome"] for row in rows]


async def test_C1_a_webhook_before_the_answer_settles_the_order(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await psp.outcomes() == [EventOutcome.APPLIED]
    assert await world.recover(timedelta(days=1)) == []
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_C1_a_webhook_while_the_call_runs_is_parked_and_handled_later(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    accepted = await world.accept(checkout("c1", "o1"))  # leased to this process, which is asking the PSP
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    assert await psp.outcomes() == [None]
    await world.gateway.executor.start(accepted.operations)
    world.clock.advance(timedelta(seconds=2))
    await psp.handle()
    assert await psp.outcomes() == [EventOutcome.NO_EFFECT]
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_C3_an_event_is_stored_once_and_its_effect_happens_once(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    raw = psp.event("charge.succeeded", charge("o1", "succeeded"))
    assert sum(await asyncio.gather(*[psp.send(raw) for _ in range(8)])) == 1
    await psp.handle()
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))  # the same effect under another id
    assert await psp.outcomes() == [EventOutcome.APPLIED, EventOutcome.NO_EFFECT]
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_C2_every_order_of_events_ends_in_the_same_state(store: Store) -> None:
    """Authorized, captured elsewhere in part, expired: told in any order, asked where it contradicts."""
    kind = OperationKind.AUTHORIZE
    told = [("charge.authorized", "authorized"), ("charge.authorized", "authorized"), ("charge.expired", "expired")]
    ends = set()
    for number, order in enumerate(permutations(told)):
        world = World(store)
        psp = Psp(world)
        psp.sent = 100 * number
        world.provider.acts[kind] = [unknown]
        world.provider.look_ups = [lapsed] * 5  # how it stands by now, whoever asks
        view = await world.pay(checkout(f"c{number}", f"o{number}", capture=Capture.MANUAL), key=f"k{number}")
        for type_, status in order:
            await psp.tell(type_, charge(f"o{number}", status, kind=kind))
        ends.add((await world.read(view.payment_id)).status)
        assert await world.violations() == {}
        assert await world.balances() == {}
    assert ends == {"CANCELLED"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 1001},
        {"currency": "USD"},
        {"livemode": True},
    ],
)
async def test_C6_authentic_is_not_valid(store: Store, wrong: dict[str, Any]) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await psp.tell("charge.succeeded", charge("o1", "succeeded", **wrong))
    assert (await world.read(view.payment_id)).status == "EXECUTING"
    assert await world.count("transfer") == 0
    assert await psp.outcomes() == [EventOutcome.REFUSED]
    assert await world.count("event", "kind = 'webhook.refused'") == 1
    await world.recover()  # and it does not keep the truth out
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.violations() == {}


def at_stripe(store: Store) -> tuple[World, Psp]:
    """A gateway that charges at Stripe, and has the simulator's endpoint open as well."""
    provider = ScriptedProvider()
    provider.name = "stripe"
    secrets = (SECRET, "whsec_next")  # with the one alone that everybody knows it would be closed
    world = World(store, provider, settings=replace(SETTINGS, provider="stripe", simulator_webhook_secrets=secrets))
    return world, Psp(world)


async def test_C10_an_event_of_one_provider_settles_nothing_at_another(store: Store) -> None:
    """Who has the simulator's secret is nobody at Stripe, and our reference is known to whoever sees a charge."""
    world, psp = at_stripe(store)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    assert await psp.outcomes() == [EventOutcome.REFUSED]
    assert (await world.read(view.payment_id)).status == "EXECUTING"
    assert await world.count("transfer") == 0
    assert await world.count("inbox_lease") == 0
    (body,) = await store.pool.fetch("SELECT body::text FROM event WHERE kind = 'webhook.refused'")
    told = json.loads(body[0])
    assert told["provider"] == "simulator"
    assert told["difference"] == "told by simulator (test) of an operation at stripe (test)"
    figures = world.gateway.metrics.registry
    assert figures.get_sample_value("coatcheck_webhooks_total", {"outcome": "refused"}) == 1
    await world.recover()  # and it does not keep the truth out
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.violations() == {}


async def test_C10_an_event_of_one_provider_reopens_nothing_at_another_and_is_not_believed(store: Store) -> None:
    world, psp = at_stripe(store)
    world.provider.charges = [approved, declined]
    await world.pay(checkout("c1", "o1"))
    answer = await world.refund("o1", 600)
    await world.pay(checkout("c2", "o2"), key="k2")
    asked, before = list(world.provider.asked), await world.balances()
    await psp.tell("charge.succeeded", charge("o1", "succeeded", id="ch_another"))
    await psp.tell("refund.failed", returned(answer.refund_id))
    await psp.tell("charge.succeeded", charge("o2", "succeeded"))
    await psp.tell("dispute.opened", dispute("o1"))
    await psp.tell("dispute.opened", dispute("o2", id="dp_2"))
    assert await psp.outcomes() == [EventOutcome.REFUSED] * 5
    assert world.provider.asked == asked
    assert await world.balances() == before
    assert await world.count("event", "kind IN ('order.charged_twice', 'operation.reopened', 'operation.claimed')") == 0
    assert await world.count("event", "kind = 'webhook.refused'") == 5
    assert await world.count("dispute") == 0
    assert await world.violations() == {}


async def test_C10_a_dispute_of_one_provider_has_nothing_asked_again_at_another(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked about, the dispute is of a charge that is not captured yet, and of another one than its event names."""
    world, psp = at_stripe(store)
    world.provider.charges = [declined]
    await world.pay(checkout("c1", "o1"))

    async def not_captured(_: DisputeNews) -> NewsOutcome:
        return NewsOutcome.NOT_CAPTURED

    monkeypatch.setattr(world.gateway.correspondence, "hear", not_captured)
    await psp.tell("dispute.opened", dispute("o1"))
    assert await psp.outcomes() == [EventOutcome.REFUSED]
    assert world.provider.asked == ["charge"]
    assert await world.count("event", "kind = 'operation.reopened'") == 0


async def test_C10_I2_an_event_under_the_test_secret_settles_nothing_that_is_live(store: Store) -> None:
    """What the signature covers says test, and the charge inside of it says live."""
    world = World(store)
    psp = Psp(world)
    live = msgspec.structs.replace(CALLER, mode=Mode.LIVE)
    accepted = await world.accept(checkout("c1", "o1"), caller=live)
    world.provider.charges = [unknown]
    await world.gateway.executor.start(accepted.operations)
    reference = accepted.operations[0].intent.reference
    await psp.tell("charge.succeeded", charge("o1", "succeeded", reference=reference, livemode=True))
    assert await psp.outcomes() == [EventOutcome.REFUSED]
    assert (await world.read(accepted.payment_id)).status == "EXECUTING"
    assert await world.count("transfer") == 0


async def test_C5_a_forged_event_leaves_no_trace(store: Store) -> None:
    world = World(store)
    raw = Psp(world).event("charge.succeeded", charge("o1", "succeeded"))
    (reader,) = world.gateway.webhooks.values()
    with pytest.raises(WebhookRefusedError):
        reader.receive(
            {"simulator-signature": f"t={int(world.clock.now().timestamp())},v1={'0' * 64}"}, raw, world.clock.now()
        )
    assert await world.count("inbox") == 0


async def test_C13_a_poison_event_is_a_dead_letter_and_blocks_nobody(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [unknown]
    view = await world.pay(checkout("c1", "o1"))
    await psp.send(b'{"id": "evt_0", "data": NaN}\x00')
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.count("inbox_lease", "due_at IS NULL") == 1
    await world.gateway.inbox.count()
    assert world.gateway.metrics.registry.get_sample_value("coatcheck_webhooks_dead") == 1


async def test_C19_an_unknown_type_is_stored_and_counted(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    await psp.tell("merchant.moved_house", {"id": "x"})
    assert await psp.outcomes() == [EventOutcome.UNKNOWN_TYPE]
    figures = world.gateway.metrics.registry
    assert figures.get_sample_value("coatcheck_webhooks_total", {"outcome": "unknown_type"}) == 1


async def test_an_event_about_nobody_s_operation_waits_and_then_goes_to_a_person(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    await psp.tell("charge.succeeded", charge("nobody", "succeeded"))
    for _ in range(12):
        world.clock.advance(timedelta(minutes=11))
        await psp.handle()
    assert await psp.outcomes() == [None]
    assert await world.count("inbox_lease", "due_at IS NULL") == 1


async def test_A8_a_second_charge_under_our_reference_is_told_and_books_nothing(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    await world.pay(checkout("c1", "o1"))
    await psp.tell("charge.succeeded", charge("o1", "succeeded", id="ch_another"))
    assert await psp.outcomes() == [EventOutcome.CHARGED_TWICE]
    assert await world.count("event", "kind = 'order.charged_twice'") == 1
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_A8_a_second_charge_of_an_order_that_was_paid_on_a_page_is_told_and_raises_the_alert(
    store: Store,
) -> None:
    """Two pages of one payment: what the buyer pays on the second is in nobody's books."""
    world = World(store)
    psp = Psp(world)
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    first, second = (charge("o1", "succeeded", id=name) for name in ("ch_first", "ch_second"))
    await psp.tell("charge.succeeded", first)
    entry = {"reference": first["reference"], "amount": 1000, "currency": "EUR", "charge": first}
    page = {"id": "cs_1", "object": "session", "status": "completed", "livemode": False, "charges": [entry]}
    await psp.tell("session.completed", page)
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await psp.outcomes() == [EventOutcome.APPLIED, EventOutcome.NO_EFFECT]
    await psp.tell("charge.succeeded", second)
    assert (await psp.outcomes())[-1] == EventOutcome.CHARGED_TWICE
    (change,) = await make_watcher(world.gateway).watch_once()
    assert change.alert.kind.value == "charged_twice"
    assert "ch_first is in the books, ch_second is not" in change.alert.text
    assert await world.count("transfer") == 2
    assert await world.violations() == {}


async def test_A8_a_page_s_own_id_is_not_taken_for_another_charge(store: Store) -> None:
    """Of a page some PSPs know the charge by the page's id: only another page is another charge then."""
    world = World(store)
    psp = Psp(world)
    world.provider.look_ups = [approved]  # under the page's id, as Stripe's
    await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    await world.recover()
    assert await world.count("operation", "status = 'APPROVED' AND provider_reference = 'cs_1'") == 1
    for name in ("ch_1", "cs_1", "cs_2"):
        await psp.tell("charge.succeeded", charge("o1", "succeeded", id=name))
    assert await psp.outcomes() == [EventOutcome.NO_EFFECT, EventOutcome.NO_EFFECT, EventOutcome.CHARGED_TWICE]
    assert await world.violations() == {}


def returned(refund_id: UUID, amount_minor: int = 600) -> dict[str, Any]:
    """A refund of o1 that came back from the bank, as the PSP tells of it."""
    reference = reference_of("o1", OperationKind.REFUND, refund_id.hex)
    return {
        "id": f"ch_{reference}",
        "object": "refund",
        "charge": "ch_1",
        "amount": amount_minor,
        "currency": "EUR",
        "reference": reference,
        "status": "failed",
        "failure_code": "bank_returned",
        "livemode": False,
        "created": 1,
    }


async def test_C2_D6_an_old_event_does_not_end_a_question_that_newer_news_began(store: Store) -> None:
    """Found by a drill: the success of before was booked as the answer, and the return was forgotten."""
    world = World(store)
    psp = Psp(world)
    await world.pay(checkout("c1", "o1"))
    before = await world.balances()
    answer = await world.refund("o1", 600)
    world.provider.look_ups = [server_error, declined]
    action = returned(answer.refund_id)
    await psp.tell("refund.failed", action)  # asked about, and the PSP has no answer
    await psp.tell("refund.succeeded", {**action, "status": "succeeded", "failure_code": None})
    assert await psp.outcomes() == [EventOutcome.APPLIED, None]
    await world.recover()
    view = await world.gateway.refunds.read(answer.refund_id)
    assert view is not None
    assert view.status == "FAILED"
    await psp.handle()
    assert await psp.outcomes() == [EventOutcome.APPLIED, EventOutcome.NO_EFFECT]
    assert await world.balances() == before
    assert await world.violations() == {}


async def test_C2_D6_news_that_somebody_else_overtook_is_not_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a drill: while the database stood still the lease ended, and a replayed success was booked before."""
    world = World(store)
    other, psp = World(store, world.provider, clock=world.clock), Psp(world)
    await world.pay(checkout("c1", "o1"))
    before = await world.balances()
    world.provider.acts[OperationKind.REFUND] = [unknown]
    answer = await world.refund("o1", 600)
    settle = world.gateway.executor.settle

    async def settle_too_late(operation: Operation, outcome: Outcome) -> Outcome | None:
        await other.recover()
        return await settle(operation, outcome)

    with monkeypatch.context() as slow:
        slow.setattr(world.gateway.executor, "settle", settle_too_late)
        await psp.tell("refund.failed", returned(answer.refund_id))
    assert await psp.outcomes() == [None]
    world.provider.look_ups = [declined]
    world.clock.advance(timedelta(minutes=1))
    await psp.handle()
    assert await psp.outcomes() == [EventOutcome.APPLIED]
    assert await world.count("refund", "status = 'FAILED'") == 1
    assert await world.balances() == before
    assert await world.violations() == {}


async def test_C2_A9_an_old_expiry_does_not_end_the_question_about_a_late_success(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [declined]
    view = await world.pay(checkout("c1", "o1"))
    world.provider.look_ups = [server_error, approved]
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    await psp.tell("charge.declined", charge("o1", "declined", decline_code="no"))
    await world.recover()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.violations() == {}


async def test_C13_an_event_waits_for_an_operation_that_is_being_worked_on_for_as_long_as_that_takes(
    store: Store,
) -> None:
    """A PSP that is silent for hours is no reason to call a person."""
    world = World(store)
    psp = Psp(world)
    await world.pay(checkout("c1", "o1"))
    answer = await world.refund("o1", 600)
    world.provider.look_ups = [server_error]
    action = returned(answer.refund_id)
    await psp.tell("refund.failed", action)  # asked about, and the PSP has no answer
    await psp.tell("refund.succeeded", {**action, "status": "succeeded", "failure_code": None})
    for _ in range(20):
        world.clock.advance(timedelta(minutes=10))
        await psp.handle()
    assert await psp.outcomes() == [EventOutcome.APPLIED, None]
    (lease,) = await store.pool.fetch("SELECT attempt, tries, due_at, cause FROM inbox_lease")
    assert (lease["attempt"], lease["tries"], lease["cause"]) == (21, 0, "its operation is being worked on")
    assert lease["due_at"] == world.clock.now() + timedelta(minutes=10)
    world.provider.look_ups = [declined]
    await world.recover()
    world.clock.advance(timedelta(minutes=10))
    await psp.handle()
    assert await psp.outcomes() == [EventOutcome.APPLIED, EventOutcome.NO_EFFECT]
    assert await world.violations() == {}


async def test_D6_a_refund_asked_about_twice_leaves_the_other_refunds_reservation_alone(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1"))
    first = await world.refund("o1", 600)
    operation_id = first.operations[0].intent.operation_id
    (held,) = await world.gateway.operations.reopen([operation_id], "it came back")
    await world.gateway.executor.settle(held, declined(held.intent))
    await world.refund("o1", 900, key="r2")
    (again,) = await world.gateway.operations.reopen([operation_id], "the same news, read before the first was booked")
    assert await world.gateway.executor.settle(again, declined(again.intent)) is not None
    counts = await store.pool.fetchrow("SELECT refund_reserved_minor, refunded_minor FROM payment_order")
    assert counts is not None
    assert tuple(counts) == (900, 900)
    assert await world.violations() == {}


async def test_D6_a_refund_that_failed_days_later_is_asked_about_and_comes_back(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    await world.pay(checkout("c1", "o1"))
    before = await world.balances()
    answer = await world.refund("o1", 600)
    world.clock.advance(timedelta(days=9))
    world.provider.look_ups = [declined]
    action = returned(answer.refund_id)
    await psp.tell("refund.failed", action)
    await psp.tell("refund.succeeded", {**action, "status": "succeeded", "failure_code": None})  # late, and older
    view = await world.gateway.refunds.read(answer.refund_id)
    assert view is not None
    assert view.status == "FAILED"
    assert await world.balances() == before
    assert await world.violations() == {}


async def test_D6_a_refund_comes_back_while_nobody_knows_of_a_capture_of_the_same_order(store: Store) -> None:
    """Found by a simulation: the news waited for the capture's answer until it was a dead letter."""
    world = World(store)
    psp = Psp(world)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    await world.capture(view, key="first", is_final=False, o1=700)
    before = await world.balances()
    answer = await world.refund("o1", 600)
    world.provider.acts[OperationKind.CAPTURE] = [unknown]
    await world.capture(view, key="second", is_final=False, o1=200)
    world.provider.look_ups = [declined]
    await psp.tell("refund.failed", returned(answer.refund_id))
    assert await psp.outcomes() == [EventOutcome.APPLIED]
    refund = await world.gateway.refunds.read(answer.refund_id)
    assert refund is not None
    assert refund.status == "FAILED"
    assert await world.balances() == before
    assert await world.violations() == {}


async def test_A9_a_success_after_the_end_is_asked_about_before_it_is_believed(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    world.provider.charges = [pending]
    view = await world.pay(checkout("c1", "o1"))
    world.provider.look_ups = [lapsed]
    await world.recover()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    world.provider.look_ups = [approved]
    await psp.tell("charge.succeeded", charge("o1", "succeeded"))
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert world.provider.asked == ["charge", "look_up", "look_up"]
    assert await world.count("event", "kind = 'order.succeeded_late'") == 1
    assert await world.violations() == {}


async def test_A9_D3_a_disputed_late_success_keeps_no_other_refund_waiting_and_has_its_own_when_it_is_won(
    store: Store,
) -> None:
    world = World(store, settings=replace(SETTINGS, late_success="refund"))
    psp = Psp(world)
    world.provider.charges = [declined, declined]
    for number in (1, 2):
        await world.pay(checkout(f"c{number}", f"o{number}"), f"k{number}")
        world.provider.look_ups = [approved]
        await psp.tell("charge.succeeded", charge(f"o{number}", "succeeded"))
        if number == 1:
            await psp.tell("dispute.opened", dispute("o1"))
            world.clock.advance(timedelta(minutes=1))
    assert await world.gateway.refunds.refund_late(1) == 1
    assert await world.gateway.refunds.refund_late(1) == 0
    assert await world.count("refund") == 1
    await psp.tell("dispute.closed", dispute("o1", "won", version=2))
    assert await world.gateway.refunds.refund_late(1) == 1
    assert await world.violations() == {}


async def test_C15_webhooks_and_polls_at_once_have_one_effect(store: Store) -> None:
    world = World(store, ScriptedProvider())
    psp = Psp(world)
    others = [World(store, clock=world.clock) for _ in range(3)]
    view = await world.pay(checkout("c1", "o1", return_url="https://shop.example/"))
    for each in (world, *others):
        each.provider.look_ups = [approved] * 9
    for _ in range(4):
        await psp.send(psp.event("charge.succeeded", charge("o1", "succeeded")))
    world.clock.advance(timedelta(minutes=2))

    async def everything(each: World) -> None:
        await each.gateway.executor.recover_once()
        await each.gateway.inbox.handle_once()
        await each.quiet()

    await asyncio.gather(*[everything(each) for each in (world, *others)])
    world.clock.advance(timedelta(minutes=2))
    await psp.handle()
    assert (await world.read(view.payment_id)).status == "SUCCESS"
    assert await world.count("transfer") == 2
    assert await world.count("inbox_lease") == 0
    assert await world.violations() == {}


async def test_C12_what_was_answered_survives_the_process(store: Store) -> None:
    dead = World(store)
    dead.provider.charges = [unknown]
    view = await dead.pay(checkout("c1", "o1"))
    psp = Psp(dead)
    await psp.send(psp.event("charge.succeeded", charge("o1", "succeeded")))  # ... and it dies
    alive = World(store, clock=dead.clock)
    await Psp(alive).handle()
    assert (await alive.read(view.payment_id)).status == "SUCCESS"


async def test_D5_an_authorization_whose_time_is_over_is_asked_about(store: Store) -> None:
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    assert await world.gateway.upkeep.tend_once() == 0
    world.clock.advance(timedelta(days=7, minutes=1))
    world.provider.look_ups = [approved]
    assert await world.gateway.upkeep.tend_once() == 1
    await world.quiet()
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"  # the PSP says it lives
    assert await world.violations() == {}
    world.clock.advance(timedelta(hours=1, minutes=1))
    world.provider.look_ups = [lapsed]
    assert await world.gateway.upkeep.tend_once() == 1
    await world.quiet()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_D5_a_refused_capture_or_void_is_reason_to_ask_at_once_whether_the_authorization_lives(
    store: Store,
) -> None:
    """Found by a drill: the rest had lapsed after we had asked, and nobody asked again for an hour."""
    world = World(store)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    world.provider.acts[OperationKind.CAPTURE] = [declined]
    await world.capture(view)
    world.provider.look_ups = [approved]
    assert await world.gateway.upkeep.tend_once() == 1
    await world.quiet()
    assert (await world.read(view.payment_id)).status == "AUTHORIZED"
    assert await world.gateway.upkeep.tend_once() == 0  # it lives, and is asked about at its end

    world.provider.acts[OperationKind.VOID] = [declined]
    await world.cancel(view)
    world.provider.look_ups = [lapsed]
    assert await world.gateway.upkeep.tend_once() == 1
    await world.quiet()
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.balances() == {}
    assert await world.violations() == {}


async def test_D5_a_psp_whose_clock_is_behind_is_asked_again_soon_and_then_ever_later(store: Store) -> None:
    world = World(store)
    await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    world.provider.look_ups = [approved] * 99
    world.clock.advance(timedelta(days=7))
    ended_at, asked_after = world.clock.now(), []
    for _ in range(13):
        due_at = await store.pool.fetchval("SELECT due_at FROM authorization_watch")
        world.clock.advance(due_at - world.clock.now())
        assert await world.gateway.upkeep.tend_once() == 1
        await world.quiet()
        asked_after.append((due_at - ended_at).total_seconds())
    assert asked_after == [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 8720, 12320]


async def test_A14_a_claim_before_its_time_does_not_count_as_having_waited(store: Store) -> None:
    """Found by the model checker: "not found", then news that nobody lived to book, then "not found" again too soon."""
    world = World(store, ScriptedProvider(look_up_before_resend=True, look_up_lag=timedelta(minutes=1)))
    world.provider.charges = [unknown]
    await world.pay(checkout("c1", "o1"))
    world.clock.advance(timedelta(seconds=1))
    await world.recover(timedelta(seconds=1))  # not found, for the first time
    assert world.provider.asked == ["charge", "look_up"]
    (operation_id,) = [row[0] for row in await store.pool.fetch("SELECT operation_id FROM operation")]
    assert len(await world.gateway.operations.claim_named([operation_id])) == 1  # ... and this process dies of it
    await world.recover(timedelta(seconds=31))  # the lease is over, the lag is not
    assert world.provider.asked == ["charge", "look_up", "look_up"]


async def test_D4_an_event_about_the_void_under_way_waits_for_the_void_s_own_answer(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    view = await world.pay(checkout("c1", "o1", capture=Capture.MANUAL))
    world.provider.acts[OperationKind.VOID] = [unknown]
    await world.cancel(view)
    await psp.tell("charge.voided", charge("o1", "voided", kind=OperationKind.AUTHORIZE))
    assert await psp.outcomes() == [None]
    await world.recover()
    world.clock.advance(timedelta(minutes=1))
    await psp.handle()
    assert await psp.outcomes() == [EventOutcome.NO_EFFECT]
    assert (await world.read(view.payment_id)).status == "CANCELLED"
    assert await world.count("event", "kind = 'operation.reopened'") == 0
    assert await world.violations() == {}


async def test_D3_an_order_in_dispute_refuses_refunds(store: Store) -> None:
    world = World(store)
    psp = Psp(world)
    await world.pay(checkout("c1", "o1"))
    assert (await world.refund("o1", 100)).verdict == "requested"
    await psp.tell("dispute.opened", dispute("o1"))
    await psp.tell("dispute.opened", dispute("o1"))
    assert await psp.outcomes() == [EventOutcome.APPLIED, EventOutcome.NO_EFFECT]
    assert (await world.refund("o1", 100, key="r2")).verdict == "disputed"
    assert world.provider.asked == ["charge", "refund"]
    assert await world.count("event", "kind = 'order.disputed'") == 1
    assert await world.violations() == {}
