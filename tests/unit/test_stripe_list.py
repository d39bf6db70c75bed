"""What Stripe lists is read with what we wrote on it, to its end; what was only registered is nothing."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import msgspec
import pytest
from tests.unit.test_stripe_actions import payment, refund
from tests.unit.test_stripe_outcomes import Wire, ok, refused
from tests.unit.test_stripe_transfers import payout, transfer

from coatcheck.providers.outcome import OutcomeKind
from coatcheck.providers.protocol import ChargeRequest, Intent, NotListedError, Origin, PayoutOrigin, Registry
from coatcheck.providers.stripe import StripeProvider
from coatcheck.states import Mode, OperationKind

SINCE = datetime(2026, 11, 20, 3, tzinfo=UTC)
SHOP = UUID("01234567-89ab-cdef-0123-456789abcdef")
ORIGIN = Origin(shop_id=SHOP, checkout_id="c1", payment_order_id="o1", seller_account="seller-1", commission_minor=100)
WORDS = {
    "coatcheck_operation": "op_aerukz4jvpg66ajdivtytk6n54",
    "coatcheck_shop": SHOP.hex,
    "coatcheck_checkout": "c1",
    "coatcheck_order": "o1",
    "coatcheck_seller": "seller-1",
    "coatcheck_commission": "100",
}


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(StripeProvider, "_new_http_client", lambda _: made)
    return made


@pytest.fixture
def provider(wire: Wire) -> StripeProvider:
    assert wire.sent == []
    return StripeProvider("sk_test_key")


def listed(*objects: dict[str, Any], has_more: bool = False) -> Any:
    return ok({"object": "list", "data": objects, "has_more": has_more, "url": "/v1/any"})


def asked(wire: Wire) -> list[tuple[str, dict[str, list[str]]]]:
    return [(urlsplit(url).path, parse_qs(urlsplit(url).query)) for _, url, _, _ in wire.sent]


async def test_G16_payments_then_refunds_are_read_to_their_ends(wire: Wire, provider: StripeProvider) -> None:
    assert isinstance(provider, Registry)
    charged = payment("succeeded", capture_method="automatic", amount_received=1234, metadata=WORDS, created=1)
    captured = payment("succeeded", amount_received=1000, metadata=WORDS | {"coatcheck_capture": "op_capture"})
    unconfirmed = payment("requires_confirmation", metadata=WORDS)
    back = refund("succeeded", metadata={"coatcheck_operation": "op_r", "coatcheck_refund": SHOP.hex}, created=2)
    wire.answers = [
        listed(charged | {"id": "pi_9"}, has_more=True),
        listed(captured, unconfirmed),
        listed(back),
    ]
    first = await provider.list_since(SINCE)
    second = await provider.list_since(SINCE, first.following)
    third = await provider.list_since(SINCE, second.following)
    assert third.following == "transfers:"
    since = {"created[gte]": [str(int(SINCE.timestamp()))], "limit": ["100"]}
    assert asked(wire) == [
        ("/v1/payment_intents", since),
        ("/v1/payment_intents", since | {"starting_after": ["pi_9"]}),
        ("/v1/refunds", since),
    ]
    (one,) = first.found
    assert (one.kind, one.status, one.origin, one.amount_minor) == (None, OutcomeKind.APPROVED, ORIGIN, 1234)
    assert [(each.kind, each.reference, each.amount_minor) for each in second.found] == [
        (None, WORDS["coatcheck_operation"], 1234),
        (OperationKind.CAPTURE, "op_capture", 1000),
    ]
    (gone,) = third.found
    assert (gone.kind, gone.refund_id, gone.charge_reference) == (OperationKind.REFUND, SHOP, "pi_1")


async def test_H6_one_payment_is_found_with_its_words_and_another_is_none(wire: Wire, provider: StripeProvider) -> None:
    wire.answers = [
        ok(payment("succeeded", capture_method="automatic", metadata=WORDS)),
        refused(404, code="resource_missing"),
        ok(refund("pending")),
    ]
    found = await provider.find("pi_1", None)
    assert found is not None
    assert found.origin == ORIGIN
    assert await provider.find("pi_2", None) is None
    back = await provider.find("re_1", OperationKind.REFUND)
    assert back is not None
    assert (back.status, back.refund_id) == (OutcomeKind.PENDING, None)


async def test_G16_an_error_is_no_empty_list(wire: Wire, provider: StripeProvider) -> None:
    wire.answers = [refused(404, code="resource_missing"), refused(500), TimeoutError()]
    for _ in range(3):
        with pytest.raises(NotListedError):
            await provider.list_since(SINCE)


def test_G16_whose_a_charge_is_stands_in_its_frozen_body(provider: StripeProvider) -> None:
    request = ChargeRequest(
        operation_id=SHOP,
        amount_minor=1234,
        currency="USD",
        seller_account="seller-1",
        payment_order_id="o1",
        token="pm_1",
        origin=ORIGIN,
    )
    assert msgspec.json.decode(provider.prepare(request))["metadata"] == WORDS
    free = msgspec.structs.replace(request, origin=msgspec.structs.replace(ORIGIN, commission_minor=0))
    assert "coatcheck_commission" not in msgspec.json.decode(provider.prepare(free))["metadata"]


async def test_G16_a_refund_says_which_it_is(wire: Wire, provider: StripeProvider) -> None:
    wire.answers = [ok(refund("succeeded"))]
    intent = Intent(
        operation_id=SHOP,
        amount_minor=1000,
        currency="USD",
        mode=Mode.TEST,
        body=b"",
        kind=OperationKind.REFUND,
        target_reference="pi_1",
        refund_id=SHOP,
    )
    await provider.send(intent)
    sent = parse_qs(wire.sent[0][3])
    assert sent["metadata[coatcheck_refund]"] == [SHOP.hex]


PAYEE = PayoutOrigin(shop_id=SHOP, seller_account="seller-1", key=f"run {SHOP} seller-1", run_id=SHOP)
PAYOUT_WORDS = {
    "coatcheck_operation": payout().reference,
    "coatcheck_shop": SHOP.hex,
    "coatcheck_seller": "seller-1",
    "coatcheck_key": f"run {SHOP} seller-1",
    "coatcheck_run": SHOP.hex,
}


async def test_G16_transfers_are_read_to_their_end_with_whose_payouts_they_are(
    wire: Wire, provider: StripeProvider
) -> None:
    wire.answers = [
        listed(transfer(id="tr_2", metadata=PAYOUT_WORDS, created=5), has_more=True),
        listed(transfer(reversed=True, amount_reversed=1000, metadata={}), transfer(currency="jpy", amount=7)),
    ]
    first = await provider.list_since(SINCE, "transfers:")
    second = await provider.list_since(SINCE, first.following)
    assert second.following is None
    since = {"created[gte]": [str(int(SINCE.timestamp()))], "limit": ["100"]}
    assert asked(wire) == [("/v1/transfers", since), ("/v1/transfers", since | {"starting_after": ["tr_2"]})]
    (one,) = first.found
    assert (one.kind, one.status, one.was_paid) == (OperationKind.PAYOUT, OutcomeKind.APPROVED, True)
    assert (one.reference, one.payout, one.destination) == (payout().reference, PAYEE, payout().target_reference)
    assert (one.provider_reference, one.amount_minor, one.currency, one.is_live) == ("tr_2", 1000, "USD", False)
    assert one.made_at == datetime.fromtimestamp(5, UTC)
    back, yen = second.found
    assert (back.status, back.was_paid, back.payout) == (OutcomeKind.DECLINED, True, None)
    assert (yen.amount_minor, yen.currency) == (7, "JPY")


async def test_G16_a_transfer_says_whose_payout_it_is_within_stripe_s_limits(
    wire: Wire, provider: StripeProvider
) -> None:
    longest = PayoutOrigin(shop_id=SHOP, seller_account="s" * 128, key="k" * 255)
    for origin in (PAYEE, PAYEE, longest):
        wire.answers.append(ok(transfer()))
        await provider.send(payout(payout=origin))
    bodies = [parse_qs(body if isinstance(body, str) else body.decode()) for _, _, _, body in wire.sent]
    words = [{name: value for name, (value,) in body.items() if name.startswith("metadata")} for body in bodies]
    assert bodies[0] == bodies[1]
    assert words[0] == {f"metadata[{name}]": value for name, value in PAYOUT_WORDS.items()}
    assert "metadata[coatcheck_run]" not in words[2]
    assert max(len(value) for each in words for value in each.values()) <= 500


@pytest.mark.parametrize("missing", ["coatcheck_shop", "coatcheck_seller", "coatcheck_key"])
async def test_G16_a_transfer_without_all_our_words_names_nobody(
    wire: Wire, provider: StripeProvider, missing: str
) -> None:
    words = {name: value for name, value in PAYOUT_WORDS.items() if name != missing}
    wire.answers = [listed(transfer(metadata=words), transfer(metadata=PAYOUT_WORDS | {"coatcheck_run": "no id"}))]
    page = await provider.list_since(SINCE, "transfers:")
    assert [each.payout for each in page.found] == [None, None]


async def test_H6_one_transfer_is_found_with_its_words(wire: Wire, provider: StripeProvider) -> None:
    wire.answers = [ok(transfer(metadata=PAYOUT_WORDS)), refused(404, code="resource_missing")]
    found = await provider.find("tr_1", OperationKind.PAYOUT)
    assert found is not None
    assert found.payout == PAYEE
    assert await provider.find("tr_2", OperationKind.PAYOUT) is None


async def test_a_stand_in_without_transfers_is_not_asked_for_them(wire: Wire) -> None:
    wire.answers = [listed()]
    page = await StripeProvider("sk_test_key", idempotency_window=timedelta(0)).list_since(SINCE, "refunds:")
    assert (page.found, page.following) == ([], None)
