"""T1: the primary keys decide whose request it is."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from tests.integration.outside import CALLER, SETTINGS, World, checkout

from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import derive_id
from coatcheck.payments import Verdict
from coatcheck.payments.intake import make_intake
from coatcheck.providers.protocol import ChargeRequest, NotChargeableError
from coatcheck.shops import Caller
from coatcheck.states import Mode
from coatcheck.store import Store


async def test_a_checkout_becomes_rows_before_any_call(store: Store) -> None:
    world = World(store)
    accepted = await world.accept(checkout("c1", "o1", "o2"))
    assert accepted.verdict is Verdict.ACCEPTED
    assert len(accepted.operations) == 2
    assert await world.count("operation", "status = 'OPEN' AND first_sent_at IS NOT NULL") == 2
    assert await world.count("lease", "attempt = 1 AND holder IS NOT NULL") == 2
    assert await world.count("event", "kind = 'payment.accepted'") == 1
    assert world.provider.calls == []
    assert await world.violations() == {}


async def test_a_buyer_who_comes_again_is_left_alone_until_something_about_him_has_changed(store: Store) -> None:
    world = World(store)

    async def row() -> dict[str, object]:
        (found,) = await store.pool.fetch("SELECT ctid::text, xmax::text, email, ip, updated_at FROM buyer")
        return dict(found)

    await world.accept(checkout("c1"), "k1")
    first = await row()
    world.clock.advance(timedelta(days=1))
    await world.accept(checkout("c2"), "k2")
    assert await row() == first  # neither written nor locked: two gateways do not wait for each other because of him
    moved = msgspec.structs.replace(checkout("c3").buyer, email="ada@new.example", ip=None)
    await asyncio.gather(
        world.accept(checkout("c4"), "k4"), world.accept(msgspec.structs.replace(checkout("c3"), buyer=moved), "k3")
    )
    last = await row()
    assert (last["email"], last["ip"], last["updated_at"]) == ("ada@new.example", None, world.clock.now())


async def test_B1_the_same_key_and_request_is_the_same_payment(store: Store) -> None:
    world = World(store)
    first = await world.accept(checkout())
    again = await world.accept(checkout())
    assert (again.verdict, again.payment_id, again.operations) == (Verdict.SAME_KEY, first.payment_id, ())


async def test_B2_the_same_key_with_another_request_is_refused(store: Store) -> None:
    world = World(store)
    await world.accept(checkout("c1"))
    assert (await world.accept(checkout("c2"))).verdict is Verdict.KEY_REUSED
    assert (await world.accept(checkout("c1", amount_minor=999))).verdict is Verdict.KEY_REUSED
    assert await world.count("payment") == 1


async def test_B6_the_checkout_is_unique_for_ever_under_any_key(store: Store) -> None:
    world = World(store)
    first = await world.accept(checkout(), "k1")
    world.clock.advance(timedelta(days=400))
    assert (await world.accept(checkout(), "k1")).verdict is Verdict.SAME_CHECKOUT  # the key had been given away
    same = await world.accept(checkout(), "k2")
    other = await world.accept(checkout(amount_minor=999), "k3")
    assert (same.verdict, same.payment_id) == (Verdict.SAME_CHECKOUT, first.payment_id)
    assert other.verdict is Verdict.CHECKOUT_CONFLICT
    assert await world.count("operation") == 1


async def test_B6_a_key_lives_24_hours_and_is_then_free(store: Store) -> None:
    world = World(store)
    await world.accept(checkout("c1"), "k1")
    world.clock.advance(timedelta(hours=23, minutes=59))
    assert (await world.accept(checkout("c2"), "k1")).verdict is Verdict.KEY_REUSED
    world.clock.advance(timedelta(minutes=1))
    assert (await world.accept(checkout("c2"), "k1")).verdict is Verdict.ACCEPTED
    assert (await world.accept(checkout("c2"), "k1")).verdict is Verdict.SAME_KEY


async def test_a_refused_request_leaves_nothing_behind(store: Store) -> None:
    world = World(store)
    await world.accept(checkout("c1", "o1"), "k1")
    tables = ("idempotency_key", "payment", "payment_order", "operation", "lease")
    before = [await world.count(table) for table in tables]
    lost = await world.accept(checkout("c2", "o2", "o1", "o3"), "k2")
    assert (lost.verdict, lost.detail) == (Verdict.ORDER_CONFLICT, "o1")
    assert (await world.accept(checkout("c1", "o9"), "k3")).verdict is Verdict.CHECKOUT_CONFLICT
    assert [await world.count(table) for table in tables] == before
    assert await world.count("event", "kind = 'payment.accepted'") == 1
    assert (await world.accept(checkout("c2", "o2", "o3"), "k2")).verdict is Verdict.ACCEPTED
    assert await world.violations() == {}


async def test_one_batch_sorts_out_every_kind_of_repetition(store: Store) -> None:
    world = World(store)
    await world.accept(checkout("c0", "old"), "k0")
    asked = [
        (checkout("c1"), "k1"),
        (checkout("c1"), "k1"),
        (checkout("c1"), "k1b"),
        (checkout("c1", amount_minor=5), "k1c"),
        (checkout("c2"), "k2"),
        (checkout("c3", "old", "new"), "k3"),
        (checkout("c0", "old"), "k0"),
        (checkout("c4"), "k4"),
    ]
    answers = await asyncio.gather(*[world.accept(request, key) for request, key in asked])
    verdicts = [answer.verdict.value for answer in answers]
    # Which of the four came first is the database's to say; the others must agree with it.
    first, others = verdicts[:4].index("accepted"), {verdict for verdict in verdicts[:4] if verdict != "accepted"}
    assert others <= ({"same_key", "same_checkout", "checkout_conflict"} if first < 3 else {"checkout_conflict"})
    assert verdicts[:4].count("accepted") == 1
    assert verdicts[4:] == ["accepted", "order_conflict", "same_key", "accepted"]
    assert await world.count("payment") == 4
    assert await world.violations() == {}


@pytest.mark.parametrize("round_number", range(3))
async def test_B4_the_unique_index_is_the_arbiter_between_processes(store: Store, round_number: int) -> None:
    worlds = [World(store), World(store), World(store)]
    requests = [(checkout(f"c{number}-{round_number}"), f"k{number}") for number in range(40)]
    answers = await asyncio.gather(*[world.accept(request, key) for world in worlds for request, key in requests])
    accepted = [answer for answer in answers if answer.verdict is Verdict.ACCEPTED]
    assert len(accepted) == len(requests)
    assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED, Verdict.SAME_KEY}
    assert await worlds[0].violations() == {}


async def test_G6_a_lost_commit_answer_is_settled_by_running_the_batch_again(store: Store) -> None:
    world = World(store)
    payments = world.gateway.payments
    decision = await payments._assessor.assess(CALLER.shop_id, CALLER.mode, checkout())
    for number in range(3):
        await payments._open_accounts(CALLER, checkout(f"c{number}"))
    intakes = [
        make_intake(CALLER, checkout(f"c{n}"), f"k{n}", decision, world.provider, at=world.clock.now())
        for n in range(3)
    ]
    first = await payments._accept_batch(intakes[:2])
    again = await payments._accept_batch(intakes)
    assert [answer[0] for answer in first + again] == [Verdict.ACCEPTED] * 5
    assert await world.count("lease") == await world.count("operation") == 3
    # ... also when the work was finished in between: nothing may bring its lease back.
    await world.gateway.executor.start(intakes[0].operations)
    assert [answer[0] for answer in await payments._accept_batch(intakes)] == [Verdict.ACCEPTED] * 3
    assert await world.count("lease") == 2
    assert await world.violations() == {}


async def test_I2_test_and_live_and_shops_are_separate_worlds(store: Store) -> None:
    world = World(store)
    live = msgspec.structs.replace(CALLER, mode=Mode.LIVE)
    other = Caller(derive_id("shop", "shoes"), "shoes", Mode.TEST, derive_id("key", "two"))
    answers = [await world.accept(checkout(), "k1", caller) for caller in (CALLER, live, other)]
    assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
    assert len({answer.payment_id for answer in answers}) == 3
    assert len({operation.intent.reference for answer in answers for operation in answer.operations}) == 3


async def test_what_the_provider_cannot_take_is_refused_before_anything_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)

    def refuse(_: ChargeRequest) -> bytes:
        raise NotChargeableError("write 10.010 or 10.020")

    monkeypatch.setattr(world.provider, "prepare", refuse)
    with pytest.raises(CoatcheckError) as refused:
        await world.accept(checkout())
    assert refused.value.error is ErrorCode.INVALID_REQUEST
    assert refused.value.problems[0].pointer == "/payment_orders/0"
    assert "write 10.010" in refused.value.problems[0].detail
    assert await world.count("payment") == 0


async def test_a_token_at_fault_is_said_once_whatever_the_number_of_orders(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)

    def refuse(_: ChargeRequest) -> bytes:
        raise NotChargeableError("write a token of ours", is_about_token=True)

    monkeypatch.setattr(world.provider, "prepare", refuse)
    with pytest.raises(CoatcheckError) as refused:
        await world.accept(checkout("c1", "o1", "o2"))
    assert [problem.pointer for problem in refused.value.problems] == ["/payment_method/token"]


async def test_B1_a_repetition_is_answered_even_when_the_provider_would_refuse_it_today(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    first = await world.accept(checkout())

    def refuse(_: ChargeRequest) -> bytes:
        raise NotChargeableError("tokens of another provider")

    monkeypatch.setattr(world.provider, "prepare", refuse)
    again = await world.accept(checkout())
    assert (again.verdict, again.payment_id) == (Verdict.SAME_CHECKOUT, first.payment_id)
    with pytest.raises(CoatcheckError):
        await world.accept(checkout(amount_minor=999), "k2")


async def test_a_blocked_payment_fails_and_nobody_is_asked(store: Store) -> None:
    world = World(store, settings=replace(SETTINGS, risk_blocked_countries=("GB",)))
    view = await world.pay(checkout("c1", "o1", "o2"))
    assert [(order.status.value, order.decline_code) for order in view.orders] == [("FAILED", "risk_blocked")] * 2
    assert world.provider.calls == []
    assert await world.count("operation") == await world.count("lease") == 0
    assert await world.violations() == {}
