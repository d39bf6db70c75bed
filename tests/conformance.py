"""What every provider adapter must do, asked of a real server: two suites, subclassed once per PSP.

`ProviderConformance` is about charges, `LifecycleConformance` about what comes after an authorization or a charge, and
about pages of the PSP's. A subclass brings three fixtures. `provider`: the adapter, pointed at the server.
`unreachable`: the same adapter pointed at an address where nobody listens. `bench`: makes committed intents and asks
the outside world what was really charged, past the adapter. What a PSP cannot do, by its capabilities, is skipped.
"""

import asyncio
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import uuid4

import msgspec
import pytest

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import ChargeRequest, HostedOrder, HostedPage, Intent, NotChargeableError, Provider
from coatcheck.states import Mode, OperationKind


class Card(StrEnum):
    """What the card of a charge makes the PSP do."""

    APPROVE = "approve"
    DECLINE = "decline"
    DROP_AFTER_CHARGE = "drop_after_charge"


class Bench(Protocol):
    """The world around an adapter."""

    decline_code: str

    async def token(self, card: Card) -> str:
        """Name a card; skips the test where the PSP has none such."""
        ...

    async def charged(self, intent: Intent) -> list[tuple[int, str]]:
        """List (amount, currency) of every time money was really taken for a charge, in ISO minor units."""
        ...


class Position(NamedTuple):
    """Where the money of one charge is, in minor units: still held, captured, and given back of that."""

    held: int = 0
    captured: int = 0
    refunded: int = 0


class LifecycleBench(Bench, Protocol):
    """The world around an adapter that does more than charge."""

    async def position(self, charge: Intent) -> Position:
        """Sum up where the money of a charge or authorization really is, by the PSP's own books."""
        ...

    async def pay(self, page: Outcome) -> None:
        """Pay on a page as a buyer with a good card would; skips the test where nobody can."""
        ...


async def request_for(
    bench: Bench,
    card: Card,
    *,
    amount_minor: int = 1234,
    currency: str = "EUR",
    kind: OperationKind = OperationKind.CHARGE,
) -> ChargeRequest:
    return ChargeRequest(
        operation_id=uuid4(),
        amount_minor=amount_minor,
        currency=currency,
        token=await bench.token(card),
        seller_account="seller-1",
        payment_order_id="order-1",
        kind=kind,
    )


def intent(provider: Provider, request: ChargeRequest) -> Intent:
    return Intent(
        operation_id=request.operation_id,
        amount_minor=request.amount_minor,
        currency=request.currency,
        mode=Mode.TEST,
        body=provider.prepare(request),
        kind=request.kind,
        first_sent_at=datetime.now(UTC),
        is_hosted=request.hosted is not None,
    )


async def registered(provider: Provider, intent: Intent) -> Intent:
    """Register first where the PSP has two steps, as the executor does."""
    if not provider.capabilities.registers_first:
        return intent
    outcome = await provider.register(intent)
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert outcome.provider_reference is not None
    return msgspec.structs.replace(intent, provider_reference=outcome.provider_reference)


async def make_charge(
    provider: Provider, bench: Bench, card: Card = Card.APPROVE, *, amount_minor: int = 1234, currency: str = "EUR"
) -> Intent:
    request = await request_for(bench, card, amount_minor=amount_minor, currency=currency)
    return await registered(provider, intent(provider, request))


async def send_again(provider: Provider, intent: Intent) -> Outcome:
    """Send a second time, by the rule the adapter's capabilities set."""
    if provider.capabilities.look_up_before_resend:
        found = await provider.look_up(intent)
        if found.kind not in (OutcomeKind.NOT_SENT, OutcomeKind.NOT_FOUND):
            return found
    return await provider.send(intent)


class ProviderConformance:
    """The suite."""

    async def test_an_approved_charge_is_approved_in_the_psps_own_words(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        outcome = await provider.send(intent)
        assert outcome.kind is OutcomeKind.APPROVED
        assert outcome.provider_reference
        assert (outcome.amount_minor, outcome.currency) == (1234, "EUR")
        assert outcome.reference == intent.reference
        assert outcome.is_live is False
        assert outcome.decline_code is None
        assert await bench.charged(intent) == [(1234, "EUR")]

    async def test_a_decline_carries_its_code_and_takes_nothing(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench, Card.DECLINE)
        outcome = await provider.send(intent)
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, bench.decline_code)
        assert outcome.is_server_error is False
        assert await bench.charged(intent) == []

    @pytest.mark.parametrize(("amount_minor", "currency"), [(500, "JPY"), (5120, "KWD"), (1, "JPY"), (99_999, "USD")])
    async def test_E2_amounts_arrive_in_the_right_units(
        self, provider: Provider, bench: Bench, amount_minor: int, currency: str
    ) -> None:
        try:
            intent = await make_charge(provider, bench, amount_minor=amount_minor, currency=currency)
        except NotChargeableError as refusal:
            pytest.skip(f"the provider does not take it: {refusal}")
        outcome = await provider.send(intent)
        assert (outcome.amount_minor, outcome.currency) == (amount_minor, currency)
        assert await bench.charged(intent) == [(amount_minor, currency)]

    async def test_A1_the_same_ticket_twice_charges_once(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        first = await provider.send(intent)
        again = await send_again(provider, intent)
        assert again.kind is first.kind is OutcomeKind.APPROVED
        assert again.provider_reference == first.provider_reference
        assert await bench.charged(intent) == [(1234, "EUR")]

    async def test_F1_two_owners_at_once_charge_once(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        outcomes = await asyncio.gather(*[provider.send(intent) for _ in range(8)])
        assert OutcomeKind.APPROVED in {outcome.kind for outcome in outcomes}
        assert {outcome.kind for outcome in outcomes} <= {OutcomeKind.APPROVED, OutcomeKind.UNKNOWN}
        assert await bench.charged(intent) == [(1234, "EUR")]

    async def test_two_charges_of_the_same_amount_are_two(self, provider: Provider, bench: Bench) -> None:
        one, other = await make_charge(provider, bench), await make_charge(provider, bench)
        outcomes = await asyncio.gather(provider.send(one), provider.send(other))
        assert outcomes[0].provider_reference != outcomes[1].provider_reference
        assert await bench.charged(one) == await bench.charged(other) == [(1234, "EUR")]

    async def test_A12_nobody_listening_is_not_sent(
        self, provider: Provider, unreachable: Provider, bench: Bench
    ) -> None:
        intent = await make_charge(provider, bench)
        outcome = await unreachable.send(intent)
        assert outcome.kind is OutcomeKind.NOT_SENT
        assert outcome.cause
        assert await bench.charged(intent) == []

    async def test_A12_a_look_up_that_reaches_nobody_proves_nothing(
        self, provider: Provider, unreachable: Provider, bench: Bench
    ) -> None:
        intent = await make_charge(provider, bench)
        assert (await provider.send(intent)).kind is OutcomeKind.APPROVED
        assert (await unreachable.look_up(intent)).kind is OutcomeKind.UNKNOWN

    async def test_A1_silence_after_charging_is_unknown_and_a_look_up_tells(
        self, provider: Provider, bench: Bench
    ) -> None:
        intent = await make_charge(provider, bench, Card.DROP_AFTER_CHARGE)
        outcome = await provider.send(intent)
        assert outcome.kind is OutcomeKind.UNKNOWN
        assert outcome.cause
        found = await provider.look_up(intent)
        assert (found.kind, found.reference) == (OutcomeKind.APPROVED, intent.reference)
        assert (found.amount_minor, found.currency) == (1234, "EUR")
        assert await bench.charged(intent) == [(1234, "EUR")]

    async def test_a_look_up_by_reference_finds_what_was_charged(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        outcome = await provider.send(intent)
        found = await provider.look_up(msgspec.structs.replace(intent, provider_reference=None))
        assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, outcome.provider_reference)

    async def test_a_look_up_by_the_psps_id_finds_what_was_charged(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        outcome = await provider.send(intent)
        found = await provider.look_up(msgspec.structs.replace(intent, provider_reference=outcome.provider_reference))
        assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, outcome.provider_reference)

    async def test_A14_a_look_up_of_what_was_never_sent_is_no_decision(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        assert (await provider.look_up(intent)).kind in (OutcomeKind.NOT_FOUND, OutcomeKind.NOT_SENT)
        assert await bench.charged(intent) == []

    async def test_A17_a_cancelled_call_leaves_the_adapter_whole(self, provider: Provider, bench: Bench) -> None:
        intent = await make_charge(provider, bench)
        task = asyncio.create_task(provider.send(intent))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcomes = [await send_again(provider, intent) for _ in range(2)]
        assert outcomes[-1].kind is OutcomeKind.APPROVED
        assert await bench.charged(intent) == [(1234, "EUR")]

    async def test_A16_the_frozen_body_is_the_same_every_time(self, provider: Provider, bench: Bench) -> None:
        request = await request_for(bench, Card.APPROVE)
        other = msgspec.structs.replace(request, amount_minor=request.amount_minor + 100)
        assert provider.prepare(request) == provider.prepare(msgspec.structs.replace(request))
        assert provider.prepare(request) != provider.prepare(other)

    async def test_an_amount_that_cannot_be_charged_is_refused_before_sending(
        self, provider: Provider, bench: Bench
    ) -> None:
        request = await request_for(bench, Card.APPROVE)
        for amount_minor in (0, -1, 10**30):
            with pytest.raises(NotChargeableError):
                provider.prepare(msgspec.structs.replace(request, amount_minor=amount_minor))

    async def test_a_closed_adapter_can_be_closed_again(self, provider: Provider, bench: Bench) -> None:
        await provider.send(await make_charge(provider, bench))
        await provider.close()
        await provider.close()


async def make_first(
    provider: Provider, bench: Bench, kind: OperationKind = OperationKind.AUTHORIZE, *, amount_minor: int = 1234
) -> Intent:
    """Make an approved authorization or charge; it knows its PSP's id, as what is stored does."""
    request = await request_for(bench, Card.APPROVE, kind=kind, amount_minor=amount_minor)
    first = await registered(provider, intent(provider, request))
    outcome = await provider.send(first)
    assert outcome.kind is OutcomeKind.APPROVED
    assert (outcome.amount_minor, outcome.currency, outcome.reference) == (amount_minor, "EUR", first.reference)
    return msgspec.structs.replace(first, provider_reference=outcome.provider_reference)


def follow_up(kind: OperationKind, first: Intent, amount_minor: int = 1234, *, is_final: bool = True) -> Intent:
    """Make a committed intent that acts on a charge or authorization."""
    return Intent(
        operation_id=uuid4(),
        amount_minor=amount_minor,
        currency=first.currency,
        mode=first.mode,
        body=b"",
        kind=kind,
        first_sent_at=datetime.now(UTC),
        target_reference=first.provider_reference,
        is_final=is_final,
    )


async def assert_done(provider: Provider, act: Intent) -> None:
    """Send, and see it approved in the PSP's own words: now, and when asked by its id and by our reference."""
    outcome = await provider.send(act)
    known = msgspec.structs.replace(act, provider_reference=outcome.provider_reference)
    for told in (outcome, await provider.look_up(known), await provider.look_up(act)):
        assert told.kind is OutcomeKind.APPROVED, told
        assert (told.amount_minor, told.currency, told.reference) == (act.amount_minor, "EUR", act.reference)
        assert told.is_live is False
        assert told.provider_reference == outcome.provider_reference


def make_page(provider: Provider, kind: OperationKind = OperationKind.CHARGE) -> list[Intent]:
    """Make the intents of a payment's orders, as many as fit a page and at most three, for one page."""
    count = min(provider.capabilities.hosted_orders, 3)
    if not count:
        pytest.skip("the provider has no page of its own")
    page = HostedPage(
        payment_id=uuid4(),
        return_url="https://shop.example/thanks",
        orders=tuple(
            HostedOrder(
                operation_id=uuid4(), amount_minor=1000 + number, currency="EUR", payment_order_id=f"order-{number}"
            )
            for number in range(count)
        ),
    )
    requests = [
        ChargeRequest(
            operation_id=order.operation_id,
            amount_minor=order.amount_minor,
            currency=order.currency,
            seller_account="seller-1",
            payment_order_id=order.payment_order_id,
            hosted=page,
            kind=kind,
        )
        for order in page.orders
    ]
    return [intent(provider, request) for request in requests]


async def registered_page(provider: Provider, orders: list[Intent]) -> tuple[list[Intent], Outcome]:
    """Register every order; they share one page."""
    outcomes = [await provider.register(order) for order in orders]
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.PENDING}
    assert len({(outcome.provider_reference, outcome.redirect_url) for outcome in outcomes}) == 1
    page_id = outcomes[0].provider_reference
    assert page_id
    return [msgspec.structs.replace(order, provider_reference=page_id) for order in orders], outcomes[0]


AUTHORIZE, CHARGE, CAPTURE = OperationKind.AUTHORIZE, OperationKind.CHARGE, OperationKind.CAPTURE
VOID, REFUND = OperationKind.VOID, OperationKind.REFUND


class LifecycleConformance:
    """What comes after an authorization or a charge, and pages of the PSP's."""

    async def test_an_authorization_holds_and_takes_nothing(self, provider: Provider, bench: LifecycleBench) -> None:
        first = await make_first(provider, bench)
        assert await bench.position(first) == Position(held=1234)
        for asked in (first, msgspec.structs.replace(first, provider_reference=None)):
            found = await provider.look_up(asked)
            assert (found.kind, found.amount_minor, found.currency) == (OutcomeKind.APPROVED, 1234, "EUR")
            assert found.provider_reference == first.provider_reference

    async def test_a_refused_authorization_holds_nothing(self, provider: Provider, bench: LifecycleBench) -> None:
        request = await request_for(bench, Card.DECLINE, kind=AUTHORIZE)
        first = await registered(provider, intent(provider, request))
        outcome = await provider.send(first)
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, bench.decline_code)
        assert outcome.is_cancelled is False
        assert await bench.position(first) == Position()

    async def test_A1_the_same_authorization_twice_holds_once(self, provider: Provider, bench: LifecycleBench) -> None:
        request = await request_for(bench, Card.APPROVE, kind=AUTHORIZE)
        first = await registered(provider, intent(provider, request))
        outcomes = [await provider.send(first), await send_again(provider, first)]
        assert [outcome.kind for outcome in outcomes] == [OutcomeKind.APPROVED] * 2
        assert await bench.position(first) == Position(held=1234)

    async def test_a_capture_takes_what_was_held(self, provider: Provider, bench: LifecycleBench) -> None:
        first = await make_first(provider, bench)
        await assert_done(provider, follow_up(CAPTURE, first))
        assert await bench.position(first) == Position(captured=1234)
        assert (await provider.look_up(first)).kind is OutcomeKind.APPROVED

    async def test_A1_the_same_capture_twice_takes_once(self, provider: Provider, bench: LifecycleBench) -> None:
        first = await make_first(provider, bench)
        capture = follow_up(CAPTURE, first, 400)
        outcomes = [await provider.send(capture), await send_again(provider, capture)]
        assert [outcome.kind for outcome in outcomes] == [OutcomeKind.APPROVED] * 2
        assert await bench.position(first) == Position(captured=400)

    async def test_D5_a_final_capture_of_a_part_lets_the_rest_go(
        self, provider: Provider, bench: LifecycleBench
    ) -> None:
        first = await make_first(provider, bench)
        await assert_done(provider, follow_up(CAPTURE, first, 1000))
        assert await bench.position(first) == Position(captured=1000)
        assert (await provider.send(follow_up(CAPTURE, first, 234))).kind is OutcomeKind.DECLINED
        assert await bench.position(first) == Position(captured=1000)

    async def test_D5_captures_in_parts_add_up_and_never_exceed(
        self, provider: Provider, bench: LifecycleBench
    ) -> None:
        if not provider.capabilities.several_captures:
            pytest.skip("the provider captures once")
        first = await make_first(provider, bench)
        await assert_done(provider, follow_up(CAPTURE, first, 1000, is_final=False))
        await assert_done(provider, follow_up(CAPTURE, first, 34, is_final=False))
        assert await bench.position(first) == Position(held=200, captured=1034)
        assert (await provider.look_up(first)).kind is OutcomeKind.APPROVED
        assert (await provider.send(follow_up(CAPTURE, first, 201))).kind is OutcomeKind.DECLINED
        await assert_done(provider, follow_up(CAPTURE, first, 100))
        assert await bench.position(first) == Position(captured=1134)

    async def test_D5_the_rest_of_an_authorization_can_be_voided(
        self, provider: Provider, bench: LifecycleBench
    ) -> None:
        if not provider.capabilities.several_captures:
            pytest.skip("the provider captures once")
        first = await make_first(provider, bench)
        await assert_done(provider, follow_up(CAPTURE, first, 1000, is_final=False))
        await assert_done(provider, follow_up(VOID, first, 234))
        assert await bench.position(first) == Position(captured=1000)
        ended = await provider.look_up(first)  # nothing more can be captured, whatever was
        assert (ended.kind, ended.is_cancelled) == (OutcomeKind.DECLINED, True)

    async def test_D5_more_than_was_authorized_is_refused(self, provider: Provider, bench: LifecycleBench) -> None:
        first = await make_first(provider, bench)
        outcome = await provider.send(follow_up(CAPTURE, first, 1235))
        assert outcome.kind is OutcomeKind.DECLINED
        assert outcome.decline_code
        assert await bench.position(first) == Position(held=1234)

    async def test_a_void_lets_go_and_nothing_can_be_captured_after_it(
        self, provider: Provider, bench: LifecycleBench
    ) -> None:
        first = await make_first(provider, bench)
        await assert_done(provider, follow_up(VOID, first))
        assert await bench.position(first) == Position()
        ended = await provider.look_up(first)
        assert (ended.kind, ended.is_cancelled) == (OutcomeKind.DECLINED, True)
        assert (await provider.send(follow_up(CAPTURE, first))).kind is OutcomeKind.DECLINED
        assert await bench.position(first) == Position()

    async def test_A1_the_same_void_twice_is_one(self, provider: Provider, bench: LifecycleBench) -> None:
        void = follow_up(VOID, await make_first(provider, bench))
        outcomes = [await provider.send(void), await send_again(provider, void)]
        assert [outcome.kind for outcome in outcomes] == [OutcomeKind.APPROVED] * 2

    async def test_D4_of_a_capture_and_a_void_at_once_one_is_done(
        self, provider: Provider, bench: LifecycleBench
    ) -> None:
        first = await make_first(provider, bench)
        acts = [follow_up(CAPTURE, first), follow_up(VOID, first)]
        outcomes = await asyncio.gather(*[provider.send(act) for act in acts])
        won = [act.kind for act, outcome in zip(acts, outcomes, strict=True) if outcome.kind is OutcomeKind.APPROVED]
        assert len(won) == 1
        assert await bench.position(first) == (Position(captured=1234) if won == [CAPTURE] else Position())

    @pytest.mark.parametrize("kind", [CHARGE, AUTHORIZE])
    async def test_a_refund_gives_back_a_part_and_then_the_rest(
        self, provider: Provider, bench: LifecycleBench, kind: OperationKind
    ) -> None:
        first = await make_first(provider, bench, kind)
        if kind is AUTHORIZE:
            await assert_done(provider, follow_up(CAPTURE, first))
        await assert_done(provider, follow_up(REFUND, first, 234))
        assert await bench.position(first) == Position(captured=1234, refunded=234)
        await assert_done(provider, follow_up(REFUND, first, 1000))
        assert await bench.position(first) == Position(captured=1234, refunded=1234)

    async def test_D2_the_same_refund_twice_gives_back_once(self, provider: Provider, bench: LifecycleBench) -> None:
        first = await make_first(provider, bench, CHARGE)
        refund = follow_up(REFUND, first, 500)
        sent, again = await provider.send(refund), await send_again(provider, refund)
        assert again.kind is sent.kind is OutcomeKind.APPROVED
        assert again.provider_reference == sent.provider_reference
        assert await bench.position(first) == Position(captured=1234, refunded=500)

    async def test_D2_two_refunds_of_the_same_amount_are_two(self, provider: Provider, bench: LifecycleBench) -> None:
        first = await make_first(provider, bench, CHARGE)
        one, other = [await provider.send(follow_up(REFUND, first, 500)) for _ in range(2)]
        assert one.provider_reference != other.provider_reference
        assert await bench.position(first) == Position(captured=1234, refunded=1000)

    async def test_D1_more_than_was_captured_is_never_given_back(
        self, provider: Provider, bench: LifecycleBench
    ) -> None:
        first = await make_first(provider, bench, CHARGE)
        outcomes = await asyncio.gather(*[provider.send(follow_up(REFUND, first, 700)) for _ in range(2)])
        assert sorted(outcome.kind for outcome in outcomes) == [OutcomeKind.APPROVED, OutcomeKind.DECLINED]
        assert await bench.position(first) == Position(captured=1234, refunded=700)

    @pytest.mark.parametrize("kind", [CAPTURE, VOID, REFUND])
    async def test_A14_what_was_never_asked_for_is_no_decision(
        self, provider: Provider, bench: LifecycleBench, kind: OperationKind
    ) -> None:
        first = await make_first(provider, bench, CHARGE if kind is REFUND else AUTHORIZE)
        found = await provider.look_up(follow_up(kind, first))
        assert found.kind in (OutcomeKind.NOT_FOUND, OutcomeKind.NOT_SENT)

    @pytest.mark.parametrize("kind", [CAPTURE, VOID, REFUND])
    async def test_A12_nobody_listening_did_nothing_and_tells_nothing(
        self, provider: Provider, unreachable: Provider, bench: LifecycleBench, kind: OperationKind
    ) -> None:
        first = await make_first(provider, bench, CHARGE if kind is REFUND else AUTHORIZE)
        before = await bench.position(first)
        act = follow_up(kind, first)
        assert (await unreachable.send(act)).kind is OutcomeKind.NOT_SENT
        assert (await unreachable.look_up(act)).kind is OutcomeKind.UNKNOWN
        assert await bench.position(first) == before

    @pytest.mark.parametrize("kind", [CAPTURE, VOID, REFUND])
    async def test_what_has_no_charge_to_act_on_is_not_sent(
        self, provider: Provider, bench: LifecycleBench, kind: OperationKind
    ) -> None:
        first = await make_first(provider, bench)
        act = msgspec.structs.replace(follow_up(kind, first), target_reference=None)
        assert (await provider.send(act)).kind is OutcomeKind.NOT_SENT

    async def test_a_page_waits_for_the_buyer(self, provider: Provider, bench: LifecycleBench) -> None:
        orders, page = await registered_page(provider, make_page(provider))
        assert page.redirect_url is not None
        assert page.redirect_url.startswith("http")
        assert page.expires_at is not None
        assert page.expires_at > datetime.now(UTC)
        for order in orders:
            for told in (await provider.register(order), await provider.look_up(order)):
                assert (told.kind, told.provider_reference) == (OutcomeKind.PENDING, page.provider_reference)
                assert (told.reference, told.amount_minor) == (order.reference, order.amount_minor)
                assert (told.currency, told.is_live) == ("EUR", False)
            assert await bench.position(order) == Position()

    @pytest.mark.parametrize("kind", [CHARGE, AUTHORIZE])
    async def test_a_paid_page_is_each_orders_approval(
        self, provider: Provider, bench: LifecycleBench, kind: OperationKind
    ) -> None:
        orders, page = await registered_page(provider, make_page(provider, kind))
        await bench.pay(page)
        for order in orders:
            for asked in (order, msgspec.structs.replace(order, provider_reference=None)):
                found = await provider.look_up(asked)
                assert (found.kind, found.reference) == (OutcomeKind.APPROVED, order.reference)
                assert (found.amount_minor, found.currency, found.is_live) == (order.amount_minor, "EUR", False)
            paid = msgspec.structs.replace(order, provider_reference=found.provider_reference)
            assert (await provider.look_up(paid)).kind is OutcomeKind.APPROVED
            if kind is AUTHORIZE:
                assert await bench.position(order) == Position(held=order.amount_minor)
                await assert_done(provider, follow_up(CAPTURE, paid, order.amount_minor))
            assert await bench.position(order) == Position(captured=order.amount_minor)

    async def test_a_void_ends_an_open_page(self, provider: Provider, bench: LifecycleBench) -> None:
        orders, _ = await registered_page(provider, make_page(provider))
        for order in orders:
            void = follow_up(VOID, order, order.amount_minor)
            assert (await provider.send(void)).kind is OutcomeKind.APPROVED
            for told in (await send_again(provider, void), await provider.look_up(void)):
                assert (told.kind, told.reference) == (OutcomeKind.APPROVED, void.reference)
                assert (told.amount_minor, told.currency) == (order.amount_minor, "EUR")
            ended = await provider.look_up(order)
            assert (ended.kind, ended.is_cancelled) == (OutcomeKind.DECLINED, True)
            assert ended.decline_code == "page_expired"
            assert await bench.position(order) == Position()

    async def test_a_paid_page_is_not_voided_as_a_page(self, provider: Provider, bench: LifecycleBench) -> None:
        orders, page = await registered_page(provider, make_page(provider))
        open_page = await provider.look_up(follow_up(VOID, orders[0], orders[0].amount_minor))
        assert open_page.kind is OutcomeKind.NOT_SENT
        await bench.pay(page)
        void = follow_up(VOID, orders[0], orders[0].amount_minor)
        for told in (await provider.send(void), await provider.look_up(void)):
            assert told.kind is OutcomeKind.DECLINED
        assert await bench.position(orders[0]) == Position(captured=orders[0].amount_minor)

    async def test_A14_a_page_nobody_asked_for_is_no_decision(self, provider: Provider, bench: LifecycleBench) -> None:
        (order, *_) = make_page(provider)
        assert (await provider.look_up(order)).kind in (OutcomeKind.NOT_FOUND, OutcomeKind.NOT_SENT)
        assert await bench.position(order) == Position()

    async def test_A12_a_page_that_nobody_was_asked_for_is_not_there(
        self, provider: Provider, unreachable: Provider, bench: LifecycleBench
    ) -> None:
        (order, *_) = make_page(provider)
        assert (await unreachable.register(order)).kind is OutcomeKind.NOT_SENT
        assert (await unreachable.look_up(order)).kind is OutcomeKind.UNKNOWN
        assert await bench.position(order) == Position()


class PayoutBench(Protocol):
    """The world around an adapter that pays sellers out."""

    def destination(self, *, is_open: bool = True) -> str:
        """Name a token of a bank account that takes money, or of one that is closed."""
        ...

    async def paid(self, payout: Intent) -> list[tuple[int, str]]:
        """List (amount, currency) of every time a payout really reached somebody, by the PSP's own books."""
        ...

    async def send_back(self, outcome: Outcome) -> None:
        """Let a payout that was paid come back from the seller's bank."""
        ...


def payout_to(destination: str, amount_minor: int = 1234, currency: str = "EUR") -> Intent:
    return Intent(
        operation_id=uuid4(),
        amount_minor=amount_minor,
        currency=currency,
        mode=Mode.TEST,
        body=b"",
        kind=OperationKind.PAYOUT,
        first_sent_at=datetime.now(UTC),
        target_reference=destination,
    )


class PayoutConformance:
    """Money to sellers, at every PSP that pays them."""

    async def test_a_payout_is_paid_in_the_psps_own_words(self, provider: Provider, payouts: PayoutBench) -> None:
        wanted = payout_to(payouts.destination())
        outcome = await provider.send(wanted)
        assert outcome.kind is OutcomeKind.APPROVED
        assert outcome.reference == wanted.reference
        assert (outcome.amount_minor, outcome.currency, outcome.is_live) == (1234, "EUR", False)
        assert await payouts.paid(wanted) == [(1234, "EUR")]

    async def test_a_closed_account_is_a_refusal_with_its_code_and_pays_nobody(
        self, provider: Provider, payouts: PayoutBench
    ) -> None:
        wanted = payout_to(payouts.destination(is_open=False))
        outcome = await provider.send(wanted)
        assert (outcome.kind, outcome.decline_code is not None) == (OutcomeKind.DECLINED, True)
        assert await payouts.paid(wanted) == []

    @pytest.mark.parametrize(("amount_minor", "currency"), [(1, "EUR"), (5000, "JPY"), (99_999_999, "USD")])
    async def test_E2_amounts_arrive_in_the_right_units(
        self, provider: Provider, payouts: PayoutBench, amount_minor: int, currency: str
    ) -> None:
        wanted = payout_to(payouts.destination(), amount_minor, currency)
        assert (await provider.send(wanted)).amount_minor == amount_minor
        assert await payouts.paid(wanted) == [(amount_minor, currency)]

    async def test_D11_the_same_ticket_twice_pays_once(self, provider: Provider, payouts: PayoutBench) -> None:
        wanted = payout_to(payouts.destination())
        first = await provider.send(wanted)
        again = await send_again(provider, wanted)
        assert (again.kind, again.provider_reference) == (first.kind, first.provider_reference)
        assert await payouts.paid(wanted) == [(1234, "EUR")]

    async def test_F1_two_owners_at_once_pay_once(self, provider: Provider, payouts: PayoutBench) -> None:
        wanted = payout_to(payouts.destination())
        await asyncio.gather(provider.send(wanted), provider.send(wanted))
        assert await payouts.paid(wanted) == [(1234, "EUR")]

    async def test_two_payouts_of_the_same_amount_are_two(self, provider: Provider, payouts: PayoutBench) -> None:
        one, other = payout_to(payouts.destination()), payout_to(payouts.destination())
        assert (await provider.send(one)).provider_reference != (await provider.send(other)).provider_reference

    async def test_a_look_up_finds_it_by_our_reference_and_by_the_psps_id(
        self, provider: Provider, payouts: PayoutBench
    ) -> None:
        wanted = payout_to(payouts.destination())
        sent = await provider.send(wanted)
        for asked in (wanted, msgspec.structs.replace(wanted, provider_reference=sent.provider_reference)):
            found = await provider.look_up(asked)
            assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, sent.provider_reference)

    async def test_A14_what_was_never_sent_is_no_decision(self, provider: Provider, payouts: PayoutBench) -> None:
        assert (await provider.look_up(payout_to(payouts.destination()))).kind is OutcomeKind.NOT_FOUND

    async def test_D10_what_came_back_is_a_refusal_when_it_is_asked_about(
        self, provider: Provider, payouts: PayoutBench
    ) -> None:
        wanted = payout_to(payouts.destination())
        sent = await provider.send(wanted)
        await payouts.send_back(sent)
        found = await provider.look_up(wanted)
        assert (found.kind, found.provider_reference) == (OutcomeKind.DECLINED, sent.provider_reference)
        assert found.decline_code is not None
        assert await payouts.paid(wanted) == []

    async def test_A12_nobody_listening_did_nothing_and_tells_nothing(
        self, unreachable: Provider, payouts: PayoutBench
    ) -> None:
        wanted = payout_to(payouts.destination())
        assert (await unreachable.send(wanted)).kind is OutcomeKind.NOT_SENT
        assert (await unreachable.look_up(wanted)).kind is OutcomeKind.UNKNOWN

    async def test_its_tokens_have_the_shape_that_it_says(self, provider: Provider, payouts: PayoutBench) -> None:
        shape = provider.capabilities.payout_token
        assert shape is not None
        assert re.fullmatch(shape, payouts.destination())
        assert not re.fullmatch(shape, "DE89370400440532013000")
