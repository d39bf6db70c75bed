"""Authorizations and Stripe's own payment page: what is frozen and sent, and what each state of them means."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiohttp
import msgspec
import pytest
from tests.unit.test_stripe_outcomes import Answer, Wire, ok, refused

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import ChargeRequest, HostedOrder, HostedPage, Intent, NotChargeableError
from coatcheck.providers.stripe import StripeProvider
from coatcheck.providers.stripe_answers import PaymentIntent, outcome_of_payment
from coatcheck.states import Mode, OperationKind

CHARGE, AUTHORIZE = OperationKind.CHARGE, OperationKind.AUTHORIZE
CAPTURE, VOID, REFUND = OperationKind.CAPTURE, OperationKind.VOID, OperationKind.REFUND
OPERATION_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
REFERENCE = "op_aerukz4jvpg66ajdivtytk6n54"
PRINTED_PAYMENT = "pay_aerukz4jvpg66ajdivtytk6n54"
URL = "https://checkout.stripe.com/c/pay/cs_test_1"
OPEN, COMPLETE, EXPIRED = "open", "complete", "expired"
SEEN = "/v1/checkout/sessions/cs_test_1"


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(StripeProvider, "_new_http_client", lambda _: made)
    return made


@pytest.fixture
def provider(wire: Wire) -> StripeProvider:
    assert wire.sent == []
    return StripeProvider("sk_test_key")


def page(orders: int = 1) -> HostedPage:
    order = HostedOrder(operation_id=OPERATION_ID, amount_minor=1234, currency="USD", payment_order_id="order-1")
    return HostedPage(payment_id=OPERATION_ID, return_url="https://shop.example/back?c=1", orders=(order,) * orders)


def request(kind: OperationKind = CHARGE, **fields: Any) -> ChargeRequest:
    return ChargeRequest(
        **{
            "operation_id": OPERATION_ID,
            "amount_minor": 1234,
            "currency": "USD",
            "seller_account": "seller-1",
            "payment_order_id": "order-1",
            "kind": kind,
            **fields,
        }
    )


def hosted(kind: OperationKind = CHARGE, **fields: Any) -> Intent:
    return Intent(
        **{
            "operation_id": OPERATION_ID,
            "amount_minor": 1234,
            "currency": "USD",
            "mode": Mode.TEST,
            "body": b'{"mode":"payment"}',
            "kind": kind,
            "is_hosted": True,
            "provider_reference": "cs_test_1",
            "first_sent_at": datetime(2026, 11, 21, 10, tzinfo=UTC),
            **fields,
        }
    )


def action(kind: OperationKind) -> Intent:
    return hosted(kind, is_hosted=False, body=b"", provider_reference=None, target_reference="cs_test_1")


def authorization() -> Intent:
    return hosted(AUTHORIZE, is_hosted=False, provider_reference="pi_1")


def payment(status: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": status,
        "amount": 1234,
        "capture_method": "manual",
        "currency": "usd",
        "livemode": False,
        "latest_charge": "ch_1",
        "metadata": {"coatcheck_operation": REFERENCE, "coatcheck_page": PRINTED_PAYMENT},
        **fields,
    }


def session(status: str, paid: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "cs_test_1",
        "object": "checkout.session",
        "status": status,
        "amount_total": 1234,
        "currency": "usd",
        "livemode": False,
        "url": URL if status == OPEN else None,
        "expires_at": 1795341600,
        "metadata": {"coatcheck_operation": REFERENCE},
        "payment_intent": paid,
        **fields,
    }


def listed(*made: dict[str, Any]) -> Answer:
    return ok({"object": "list", "data": made, "has_more": False, "url": "/v1/checkout/sessions"})


def paths(wire: Wire) -> list[tuple[str, str]]:
    return [(method, urlsplit(url).path) for method, url, *_ in wire.sent]


def decision(outcome: Outcome) -> tuple[OutcomeKind, str | None]:
    return outcome.kind, outcome.decline_code


def test_an_authorization_is_held_for_a_capture() -> None:
    provider = StripeProvider("sk_test_key")
    body = msgspec.json.decode(provider.prepare(request(AUTHORIZE, token="pm_1")))
    assert body["capture_method"] == "manual"
    assert "capture_method" not in msgspec.json.decode(provider.prepare(request(token="pm_1")))
    assert provider.capabilities.several_captures is False


@pytest.mark.parametrize(("kind", "capture_method"), [(CHARGE, {}), (AUTHORIZE, {"capture_method": "manual"})])
def test_A16_the_page_is_frozen_with_our_reference_everywhere(
    kind: OperationKind, capture_method: dict[str, str]
) -> None:
    provider = StripeProvider("sk_test_key")
    frozen = provider.prepare(request(kind, hosted=page()))
    assert frozen == provider.prepare(request(kind, hosted=page()))
    assert msgspec.json.decode(frozen) == {
        "mode": "payment",
        "client_reference_id": REFERENCE,
        "metadata": {"coatcheck_operation": REFERENCE},
        "payment_intent_data": {
            "description": "order-1",
            "metadata": {"coatcheck_operation": REFERENCE, "coatcheck_page": PRINTED_PAYMENT},
            **capture_method,
        },
        "line_items": [
            {
                "quantity": 1,
                "price_data": {"currency": "usd", "unit_amount": 1234, "product_data": {"name": "order-1"}},
            }
        ],
        "payment_method_types": ["card"],
        "adaptive_pricing": {"enabled": False},
        "success_url": "https://shop.example/back?c=1",
        "cancel_url": "https://shop.example/back?c=1",
    }


def test_E3_a_pages_price_is_in_stripes_units() -> None:
    body = msgspec.json.decode(
        StripeProvider("sk_test_key").prepare(request(amount_minor=5, currency="ISK", hosted=page()))
    )
    assert body["line_items"][0]["price_data"]["unit_amount"] == 500
    with pytest.raises(NotChargeableError, match="last of the three decimals"):
        StripeProvider("sk_test_key").prepare(request(amount_minor=5124, currency="KWD", hosted=page()))


def test_a_page_that_stripe_cannot_show_is_refused_for_the_whole_payment() -> None:
    provider = StripeProvider("sk_test_key")
    stand_in = StripeProvider("sk_test_key", base_url="http://127.0.0.1:1", idempotency_window=timedelta(0))
    assert (provider.capabilities.hosted_orders, stand_in.capabilities.hosted_orders) == (1, 0)
    for asked, impossible in (
        (provider, request(hosted=page(orders=2))),
        (provider, request(hosted=page(), token="pm_1")),
        (provider, request()),
        (stand_in, request(hosted=page())),
    ):
        with pytest.raises(NotChargeableError) as refusal:
            asked.prepare(impossible)
        assert refusal.value.is_about_token is True


async def test_a_page_is_registered_once_and_waits_for_the_buyer(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(session(OPEN))]
    outcome = await provider.register(hosted(provider_reference=None))
    assert outcome == Outcome(
        kind=OutcomeKind.PENDING,
        provider_reference="cs_test_1",
        reference=REFERENCE,
        amount_minor=1234,
        currency="USD",
        is_live=False,
        cause="waits for the buyer",
        evidence="Checkout Session cs_test_1 open, request req_1",
        redirect_url=URL,
        expires_at=datetime(2026, 11, 22, 10, tzinfo=UTC),
    )
    [(method, url, headers, body)] = wire.sent
    assert (method, urlsplit(url).path) == ("post", "/v1/checkout/sessions")
    assert headers["Idempotency-Key"] == f"{REFERENCE}-create"
    assert parse_qs(body) == {"mode": ["payment"]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refused(400, type="invalid_request_error", param="success_url"), (OutcomeKind.DECLINED, "invalid_request")),
        (refused(401, type="invalid_request_error"), (OutcomeKind.NOT_SENT, None)),
        (refused(409, type="idempotency_error"), (OutcomeKind.NOT_SENT, None)),
        (refused(500, type="api_error"), (OutcomeKind.NOT_SENT, None)),
        ((b"<html>", 200, {}), (OutcomeKind.NOT_SENT, None)),
        (aiohttp.ServerDisconnectedError(), (OutcomeKind.NOT_SENT, None)),
    ],
)
async def test_a_page_that_nobody_got_to_see_takes_nothing(
    provider: StripeProvider, wire: Wire, answer: Answer | Exception, expected: tuple[OutcomeKind, str | None]
) -> None:
    wire.answers = [answer]
    outcome = await provider.register(hosted(provider_reference=None))
    assert (*decision(outcome), outcome.provider_reference) == (*expected, None)


REFUSED_CARD = {"code": "card_declined", "decline_code": "lost_card"}


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        (CHARGE, session(OPEN), (OutcomeKind.PENDING, None)),
        # The buyer may try another card while the page is open.
        (
            CHARGE,
            session(OPEN, payment("requires_payment_method", last_payment_error=REFUSED_CARD)),
            (OutcomeKind.PENDING, None),
        ),
        (CHARGE, session(EXPIRED), (OutcomeKind.DECLINED, "page_expired")),
        (CHARGE, session(EXPIRED, payment("requires_payment_method")), (OutcomeKind.DECLINED, "page_expired")),
        (CHARGE, session(EXPIRED, payment("canceled")), (OutcomeKind.DECLINED, "page_expired")),
        (CHARGE, session(EXPIRED, payment("succeeded")), (OutcomeKind.APPROVED, None)),
        (CHARGE, session(EXPIRED, payment("processing")), (OutcomeKind.PENDING, None)),
        (CHARGE, session(COMPLETE, payment("succeeded")), (OutcomeKind.APPROVED, None)),
        (CHARGE, session(COMPLETE, payment("processing")), (OutcomeKind.PENDING, None)),
        (CHARGE, session(COMPLETE, payment("requires_confirmation")), (OutcomeKind.PENDING, None)),
        (CHARGE, session(COMPLETE, payment("requires_capture")), (OutcomeKind.UNKNOWN, None)),
        (CHARGE, session(COMPLETE, payment("canceled")), (OutcomeKind.DECLINED, "canceled")),
        (
            CHARGE,
            session(COMPLETE, payment("requires_payment_method", last_payment_error=REFUSED_CARD)),
            (OutcomeKind.DECLINED, "lost_card"),
        ),
        (CHARGE, session(COMPLETE), (OutcomeKind.UNKNOWN, None)),
        (CHARGE, session("something_new"), (OutcomeKind.UNKNOWN, None)),
        (AUTHORIZE, session(EXPIRED, payment("requires_capture")), (OutcomeKind.APPROVED, None)),
        (AUTHORIZE, session(COMPLETE, payment("requires_capture")), (OutcomeKind.APPROVED, None)),
        (AUTHORIZE, session(COMPLETE, payment("succeeded", amount_received=1000)), (OutcomeKind.APPROVED, None)),
        (AUTHORIZE, session(COMPLETE, payment("canceled")), (OutcomeKind.DECLINED, "canceled")),
    ],
)
async def test_A9_each_state_of_a_page(
    provider: StripeProvider,
    wire: Wire,
    kind: OperationKind,
    found: dict[str, Any],
    expected: tuple[OutcomeKind, str | None],
) -> None:
    wire.answers = [ok(found), ok(found), listed(session(OPEN, metadata={}), found)]
    outcomes = (
        await provider.look_up(hosted(kind)),
        await provider.send(hosted(kind)),
        await provider.look_up(hosted(kind, provider_reference=None)),
    )
    for outcome in outcomes:
        assert decision(outcome) == expected
        assert outcome.is_cancelled is (outcome.decline_code in ("page_expired", "canceled"))
        # The page is what was stored, also once its payment speaks for it.
        assert (outcome.provider_reference, outcome.reference) == ("cs_test_1", REFERENCE)
        assert (outcome.amount_minor, outcome.currency, outcome.is_live) == (1234, "USD", False)
    assert paths(wire) == [("get", SEEN), ("get", SEEN), ("get", "/v1/checkout/sessions")]
    assert parse_qs(urlsplit(wire.sent[0][1]).query) == {"expand[0]": ["payment_intent.latest_charge"]}


async def test_A15_a_page_paid_with_another_amount_names_it(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(session(COMPLETE, payment("succeeded", amount_received=900)))]
    outcome = await provider.look_up(hosted())
    assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.APPROVED, 900)


async def test_a_page_is_only_asked_about_and_a_question_that_failed_proves_nothing(
    provider: StripeProvider, wire: Wire
) -> None:
    wire.answers = [aiohttp.ConnectionTimeoutError(), refused(404, type="invalid_request_error"), listed()]
    assert decision(await provider.send(hosted())) == (OutcomeKind.UNKNOWN, None)
    assert decision(await provider.look_up(hosted())) == (OutcomeKind.UNKNOWN, None)
    assert decision(await provider.look_up(hosted(provider_reference=None))) == (OutcomeKind.NOT_FOUND, None)
    assert (await provider.send(hosted(provider_reference=None))).kind is OutcomeKind.NOT_SENT
    assert {method for method, *_ in wire.sent} == {"get"}


def test_A15_a_pages_payment_does_not_pass_for_the_page() -> None:
    made = msgspec.convert(payment("succeeded"), PaymentIntent)
    assert outcome_of_payment(made, CHARGE).provider_reference is None
    alone = msgspec.structs.replace(made, metadata={"coatcheck_operation": REFERENCE})
    assert outcome_of_payment(alone, CHARGE).provider_reference == "pi_1"


async def test_an_authorization_says_until_when_it_lives(provider: StripeProvider, wire: Wire) -> None:
    details = {"card": {"capture_before": 1795341600}}
    charge = {"id": "ch_1", "object": "charge", "amount": 1234, "payment_method_details": details}
    alone = payment("requires_capture", latest_charge=charge, metadata={"coatcheck_operation": REFERENCE})
    wire.answers = [ok(alone), ok(alone), ok(session(COMPLETE, payment("requires_capture", latest_charge=charge)))]
    outcomes = (
        await provider.send(authorization()),
        await provider.look_up(authorization()),
        await provider.look_up(hosted(AUTHORIZE)),
    )
    for outcome in outcomes:
        assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.APPROVED, 1234)
        assert outcome.expires_at == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert parse_qs(wire.sent[0][3]) == {"error_on_requires_action": ["true"], "expand[0]": ["latest_charge"]}
    assert parse_qs(urlsplit(wire.sent[1][1]).query) == {"expand[0]": ["latest_charge"]}


@pytest.mark.parametrize("latest", ["ch_1", None, {"amount": 1234}, {"amount": 1234, "payment_method_details": {}}])
async def test_an_authorization_need_not_say_until_when_it_lives(
    provider: StripeProvider, wire: Wire, latest: str | dict[str, Any] | None
) -> None:
    wire.answers = [ok(payment("requires_capture", latest_charge=latest))]
    outcome = await provider.send(authorization())
    assert (outcome.kind, outcome.expires_at) == (OutcomeKind.APPROVED, None)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (payment("requires_capture"), (OutcomeKind.APPROVED, None)),
        (payment("succeeded", amount_received=1000), (OutcomeKind.APPROVED, None)),
        (payment("succeeded", capture_method="automatic_async"), (OutcomeKind.UNKNOWN, None)),
        (payment("canceled", cancellation_reason="automatic"), (OutcomeKind.DECLINED, "canceled")),
        (payment("processing"), (OutcomeKind.PENDING, None)),
        (payment("requires_confirmation"), (OutcomeKind.NOT_SENT, None)),
        (payment("requires_payment_method", last_payment_error=REFUSED_CARD), (OutcomeKind.DECLINED, "lost_card")),
    ],
)
async def test_D5_an_authorization_is_good_until_it_lapses(
    provider: StripeProvider, wire: Wire, found: dict[str, Any], expected: tuple[OutcomeKind, str | None]
) -> None:
    wire.answers = [ok(found)]
    outcome = await provider.look_up(authorization())
    assert decision(outcome) == expected
    assert outcome.is_cancelled is (outcome.decline_code == "canceled")
    # Of what was authorized, also when less of it was captured.
    assert (outcome.amount_minor, outcome.currency, outcome.reference) == (1234, "USD", REFERENCE)


PAID = ok(session(COMPLETE, payment("requires_capture")))
REFUND_MADE = {
    "id": "re_1",
    "object": "refund",
    "status": "succeeded",
    "amount": 1234,
    "currency": "usd",
    "payment_intent": "pi_1",
    "metadata": {"coatcheck_operation": REFERENCE},
}


@pytest.mark.parametrize(
    ("kind", "answer", "path"),
    [
        (CAPTURE, payment("succeeded", amount_received=1234), "/v1/payment_intents/pi_1/capture"),
        (VOID, payment("canceled"), "/v1/payment_intents/pi_1/cancel"),
        (REFUND, REFUND_MADE, "/v1/refunds"),
    ],
)
async def test_what_follows_a_paid_page_acts_on_its_payment(
    provider: StripeProvider, wire: Wire, kind: OperationKind, answer: dict[str, Any], path: str
) -> None:
    wire.answers = [PAID, ok(answer)]
    outcome = await provider.send(action(kind))
    assert (outcome.kind, outcome.reference, outcome.amount_minor) == (OutcomeKind.APPROVED, REFERENCE, 1234)
    assert outcome.provider_reference == ("re_1" if kind is REFUND else "cs_test_1")
    assert paths(wire) == [("get", SEEN), ("post", path)]
    assert wire.sent[1][2]["Idempotency-Key"] == REFERENCE
    assert kind is not REFUND or parse_qs(wire.sent[1][3])["payment_intent"] == ["pi_1"]


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        (CAPTURE, session(COMPLETE, payment("requires_capture")), OutcomeKind.NOT_SENT),
        (CAPTURE, session(COMPLETE, payment("succeeded", amount_received=1234)), OutcomeKind.APPROVED),
        (CAPTURE, session(COMPLETE, payment("canceled")), OutcomeKind.DECLINED),
        (CAPTURE, session(OPEN), OutcomeKind.NOT_SENT),
        (CAPTURE, session(EXPIRED), OutcomeKind.DECLINED),
        (VOID, session(COMPLETE, payment("requires_capture")), OutcomeKind.NOT_SENT),
        (VOID, session(COMPLETE, payment("canceled")), OutcomeKind.APPROVED),
        (VOID, session(COMPLETE, payment("succeeded")), OutcomeKind.DECLINED),
        (VOID, session(OPEN), OutcomeKind.NOT_SENT),
        (VOID, session(EXPIRED), OutcomeKind.APPROVED),
        (VOID, session(EXPIRED, payment("succeeded")), OutcomeKind.DECLINED),
        (VOID, session("something_new"), OutcomeKind.UNKNOWN),
        (REFUND, session(OPEN), OutcomeKind.NOT_SENT),
        (REFUND, session(EXPIRED), OutcomeKind.DECLINED),
    ],
)
async def test_D4_a_look_up_sees_through_the_page(
    provider: StripeProvider, wire: Wire, kind: OperationKind, found: dict[str, Any], expected: OutcomeKind
) -> None:
    wire.answers = [ok(found)]
    outcome = await provider.look_up(action(kind))
    assert (outcome.kind, outcome.reference) == (expected, REFERENCE)
    assert outcome.provider_reference in (None, "cs_test_1")
    assert outcome.kind is not OutcomeKind.APPROVED or (outcome.amount_minor, outcome.currency) == (1234, "USD")
    assert paths(wire) == [("get", SEEN)]


async def test_a_refund_of_a_paid_page_is_found_by_its_payment(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(session(COMPLETE, payment("succeeded"))), listed(REFUND_MADE)]
    assert (await provider.look_up(action(REFUND))).kind is OutcomeKind.APPROVED
    assert parse_qs(urlsplit(wire.sent[1][1]).query)["payment_intent"] == ["pi_1"]


async def test_a_page_that_nobody_paid_is_voided_by_closing_it(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(session(OPEN)), ok(session(EXPIRED)), ok(session(EXPIRED))]
    closed, again = await provider.send(action(VOID)), await provider.send(action(VOID))
    for outcome in (closed, again):
        assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.APPROVED, "cs_test_1")
        assert (outcome.amount_minor, outcome.currency, outcome.reference) == (1234, "USD", REFERENCE)
    assert paths(wire) == [("get", SEEN), ("post", f"{SEEN}/expire"), ("get", SEEN)]
    # Another request than cancelling the payment, so another key.
    assert wire.sent[1][2]["Idempotency-Key"] == f"{REFERENCE}-expire"


NOT_OPEN = refused(400, type="invalid_request_error")


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (ok(session(EXPIRED)), (OutcomeKind.APPROVED, None)),
        (PAID, (OutcomeKind.NOT_SENT, None)),
        (ok(session(COMPLETE, payment("succeeded"))), (OutcomeKind.DECLINED, "charge_already_captured")),
        (ok(session(OPEN)), (OutcomeKind.UNKNOWN, None)),
        (refused(500, type="api_error"), (OutcomeKind.UNKNOWN, None)),
        (aiohttp.ServerDisconnectedError(), (OutcomeKind.UNKNOWN, None)),
        ((b"<html>", 200, {}), (OutcomeKind.UNKNOWN, None)),
    ],
)
async def test_D4_a_page_paid_while_it_was_being_closed_is_not_lost(
    provider: StripeProvider, wire: Wire, then: Answer | Exception, expected: tuple[OutcomeKind, str | None]
) -> None:
    wire.answers = [ok(session(OPEN)), NOT_OPEN, then]
    assert decision(await provider.send(action(VOID))) == expected
    assert paths(wire) == [("get", SEEN), ("post", f"{SEEN}/expire"), ("get", SEEN)]


@pytest.mark.parametrize("kind", [CAPTURE, VOID, REFUND])
@pytest.mark.parametrize(
    "answer",
    [
        aiohttp.ConnectionTimeoutError(),
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
        refused(404, type="invalid_request_error", code="resource_missing"),
        refused(429, type="invalid_request_error"),
        refused(500, type="api_error"),
        (b"<html>", 200, {}),
    ],
)
async def test_A12_an_action_whose_page_could_not_be_read_was_not_sent(
    provider: StripeProvider, wire: Wire, kind: OperationKind, answer: Answer | Exception
) -> None:
    wire.answers = [answer, answer]
    assert decision(await provider.send(action(kind))) == (OutcomeKind.NOT_SENT, None)
    assert decision(await provider.look_up(action(kind))) == (OutcomeKind.UNKNOWN, None)
    assert paths(wire) == [("get", SEEN)] * 2


@pytest.mark.parametrize(
    ("kind", "found", "expected"),
    [
        (CAPTURE, session(OPEN), (OutcomeKind.NOT_SENT, None)),
        (CAPTURE, session(EXPIRED), (OutcomeKind.DECLINED, "page_expired")),
        (REFUND, session(OPEN), (OutcomeKind.NOT_SENT, None)),
        (REFUND, session(EXPIRED), (OutcomeKind.DECLINED, "page_expired")),
        (VOID, session("something_new"), (OutcomeKind.UNKNOWN, None)),
    ],
)
async def test_an_action_on_a_page_without_a_payment_sends_nothing(
    provider: StripeProvider,
    wire: Wire,
    kind: OperationKind,
    found: dict[str, Any],
    expected: tuple[OutcomeKind, str | None],
) -> None:
    wire.answers = [ok(found)]
    assert decision(await provider.send(action(kind))) == expected
    assert paths(wire) == [("get", SEEN)]
