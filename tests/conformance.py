"""What every provider adapter must do, asked of a real server: one suite, subclassed once per PSP.

A subclass brings three fixtures. `provider`: the adapter, pointed at the server. `unreachable`: the same adapter
pointed at an address where nobody listens. `bench`: makes committed intents and asks the outside world what was
really charged, past the adapter.
"""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol
from uuid import uuid4

import msgspec
import pytest

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Charge, ChargeRequest, NotChargeableError, Provider
from coatcheck.states import Mode


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

    async def charged(self, charge: Charge) -> list[tuple[int, str]]:
        """List (amount, currency) of every time money was really taken for a charge, in ISO minor units."""
        ...


async def request_for(bench: Bench, card: Card, *, amount_minor: int = 1234, currency: str = "EUR") -> ChargeRequest:
    return ChargeRequest(
        operation_id=uuid4(),
        amount_minor=amount_minor,
        currency=currency,
        token=await bench.token(card),
        seller_account="seller-1",
        payment_order_id="order-1",
    )


def intent(provider: Provider, request: ChargeRequest) -> Charge:
    return Charge(
        operation_id=request.operation_id,
        amount_minor=request.amount_minor,
        currency=request.currency,
        mode=Mode.TEST,
        body=provider.prepare(request),
        first_sent_at=datetime.now(UTC),
    )


async def registered(provider: Provider, charge: Charge) -> Charge:
    """Register first where the PSP has two steps, as the executor does."""
    if not provider.capabilities.registers_first:
        return charge
    outcome = await provider.register(charge)
    assert outcome.kind is OutcomeKind.NOT_SENT
    assert outcome.provider_reference is not None
    return msgspec.structs.replace(charge, provider_reference=outcome.provider_reference)


async def make_charge(
    provider: Provider, bench: Bench, card: Card = Card.APPROVE, *, amount_minor: int = 1234, currency: str = "EUR"
) -> Charge:
    request = await request_for(bench, card, amount_minor=amount_minor, currency=currency)
    return await registered(provider, intent(provider, request))


async def send_again(provider: Provider, charge: Charge) -> Outcome:
    """Send a second time, by the rule the adapter's capabilities set."""
    if provider.capabilities.look_up_before_resend:
        found = await provider.look_up(charge)
        if found.kind not in (OutcomeKind.NOT_SENT, OutcomeKind.NOT_FOUND):
            return found
    return await provider.charge(charge)


class ProviderConformance:
    """The suite."""

    async def test_an_approved_charge_is_approved_in_the_psps_own_words(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        outcome = await provider.charge(charge)
        assert outcome.kind is OutcomeKind.APPROVED
        assert outcome.provider_reference
        assert (outcome.amount_minor, outcome.currency) == (1234, "EUR")
        assert outcome.reference == charge.reference
        assert outcome.is_live is False
        assert outcome.decline_code is None
        assert await bench.charged(charge) == [(1234, "EUR")]

    async def test_a_decline_carries_its_code_and_takes_nothing(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench, Card.DECLINE)
        outcome = await provider.charge(charge)
        assert (outcome.kind, outcome.decline_code) == (OutcomeKind.DECLINED, bench.decline_code)
        assert outcome.is_server_error is False
        assert await bench.charged(charge) == []

    @pytest.mark.parametrize(("amount_minor", "currency"), [(500, "JPY"), (5120, "KWD"), (1, "JPY"), (99_999, "USD")])
    async def test_E2_amounts_arrive_in_the_right_units(
        self, provider: Provider, bench: Bench, amount_minor: int, currency: str
    ) -> None:
        try:
            charge = await make_charge(provider, bench, amount_minor=amount_minor, currency=currency)
        except NotChargeableError as refusal:
            pytest.skip(f"the provider does not take it: {refusal}")
        outcome = await provider.charge(charge)
        assert (outcome.amount_minor, outcome.currency) == (amount_minor, currency)
        assert await bench.charged(charge) == [(amount_minor, currency)]

    async def test_A1_the_same_ticket_twice_charges_once(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        first = await provider.charge(charge)
        again = await send_again(provider, charge)
        assert again.kind is first.kind is OutcomeKind.APPROVED
        assert again.provider_reference == first.provider_reference
        assert await bench.charged(charge) == [(1234, "EUR")]

    async def test_F1_two_owners_at_once_charge_once(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        outcomes = await asyncio.gather(*[provider.charge(charge) for _ in range(8)])
        assert OutcomeKind.APPROVED in {outcome.kind for outcome in outcomes}
        assert {outcome.kind for outcome in outcomes} <= {OutcomeKind.APPROVED, OutcomeKind.UNKNOWN}
        assert await bench.charged(charge) == [(1234, "EUR")]

    async def test_two_charges_of_the_same_amount_are_two(self, provider: Provider, bench: Bench) -> None:
        one, other = await make_charge(provider, bench), await make_charge(provider, bench)
        outcomes = await asyncio.gather(provider.charge(one), provider.charge(other))
        assert outcomes[0].provider_reference != outcomes[1].provider_reference
        assert await bench.charged(one) == await bench.charged(other) == [(1234, "EUR")]

    async def test_A12_nobody_listening_is_not_sent(
        self, provider: Provider, unreachable: Provider, bench: Bench
    ) -> None:
        charge = await make_charge(provider, bench)
        outcome = await unreachable.charge(charge)
        assert outcome.kind is OutcomeKind.NOT_SENT
        assert outcome.cause
        assert await bench.charged(charge) == []

    async def test_A12_a_look_up_that_reaches_nobody_proves_nothing(
        self, provider: Provider, unreachable: Provider, bench: Bench
    ) -> None:
        charge = await make_charge(provider, bench)
        assert (await provider.charge(charge)).kind is OutcomeKind.APPROVED
        assert (await unreachable.look_up(charge)).kind is OutcomeKind.UNKNOWN

    async def test_A1_silence_after_charging_is_unknown_and_a_look_up_tells(
        self, provider: Provider, bench: Bench
    ) -> None:
        charge = await make_charge(provider, bench, Card.DROP_AFTER_CHARGE)
        outcome = await provider.charge(charge)
        assert outcome.kind is OutcomeKind.UNKNOWN
        assert outcome.cause
        found = await provider.look_up(charge)
        assert (found.kind, found.reference) == (OutcomeKind.APPROVED, charge.reference)
        assert (found.amount_minor, found.currency) == (1234, "EUR")
        assert await bench.charged(charge) == [(1234, "EUR")]

    async def test_a_look_up_by_reference_finds_what_was_charged(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        outcome = await provider.charge(charge)
        found = await provider.look_up(msgspec.structs.replace(charge, provider_reference=None))
        assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, outcome.provider_reference)

    async def test_a_look_up_by_the_psps_id_finds_what_was_charged(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        outcome = await provider.charge(charge)
        found = await provider.look_up(msgspec.structs.replace(charge, provider_reference=outcome.provider_reference))
        assert (found.kind, found.provider_reference) == (OutcomeKind.APPROVED, outcome.provider_reference)

    async def test_A14_a_look_up_of_what_was_never_sent_is_no_decision(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        assert (await provider.look_up(charge)).kind in (OutcomeKind.NOT_FOUND, OutcomeKind.NOT_SENT)
        assert await bench.charged(charge) == []

    async def test_A17_a_cancelled_call_leaves_the_adapter_whole(self, provider: Provider, bench: Bench) -> None:
        charge = await make_charge(provider, bench)
        task = asyncio.create_task(provider.charge(charge))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcomes = [await send_again(provider, charge) for _ in range(2)]
        assert outcomes[-1].kind is OutcomeKind.APPROVED
        assert await bench.charged(charge) == [(1234, "EUR")]

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
        await provider.charge(await make_charge(provider, bench))
        await provider.close()
        await provider.close()
