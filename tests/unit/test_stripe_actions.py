"""Captures, voids and refunds at Stripe: what is sent, and what each answer, refusal and silence means."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiohttp
import pytest
from tests.unit.test_stripe_outcomes import Answer, Wire, ok, refused

from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Intent
from coatcheck.providers.stripe import StripeProvider
from coatcheck.states import Mode, OperationKind

CAPTURE, VOID, REFUND = OperationKind.CAPTURE, OperationKind.VOID, OperationKind.REFUND
ACTIONS = [CAPTURE, VOID, REFUND]
OPERATION_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
AMOUNTS = {CAPTURE: 1000, VOID: 1234, REFUND: 1000}
REFERENCE = "op_aerukz4jvpg66ajdivtytk6n54"
CHARGED_BY = "op_thechargethatwasbefore"
MARK = {"coatcheck_operation": CHARGED_BY, "coatcheck_capture": REFERENCE}


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire()
    monkeypatch.setattr(StripeProvider, "_new_http_client", lambda _: made)
    return made


@pytest.fixture
def provider(wire: Wire) -> StripeProvider:
    assert wire.sent == []
    return StripeProvider("sk_test_key")


def action(kind: OperationKind, **fields: Any) -> Intent:
    return Intent(
        **{
            "operation_id": OPERATION_ID,
            "amount_minor": AMOUNTS[kind],
            "currency": "USD",
            "mode": Mode.TEST,
            "body": b"",
            "kind": kind,
            "first_sent_at": datetime(2026, 11, 21, 10, tzinfo=UTC),
            "target_reference": "pi_1",
            **fields,
        }
    )


def payment(status: str, **fields: Any) -> dict[str, Any]:
    """The PaymentIntent of an authorization of 12.34 USD."""
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": status,
        "amount": 1234,
        "amount_capturable": 1234 if status == "requires_capture" else 0,
        "amount_received": 0,
        "capture_method": "manual",
        "currency": "usd",
        "livemode": False,
        "latest_charge": "ch_1",
        "metadata": {"coatcheck_operation": CHARGED_BY},
        **fields,
    }


def refund(status: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "re_1",
        "object": "refund",
        "status": status,
        "amount": 1000,
        "currency": "usd",
        "payment_intent": "pi_1",
        "charge": "ch_1",
        "metadata": {"coatcheck_operation": REFERENCE},
        **fields,
    }


def listed(*refunds: dict[str, Any], has_more: bool = False) -> Answer:
    return ok({"object": "list", "data": refunds, "has_more": has_more, "url": "/v1/refunds"})


CAPTURED = payment("succeeded", amount_received=1000, metadata=MARK)
# What Stripe shows when nothing was done, and when it was, by this operation.
UNTOUCHED = {CAPTURE: ok(payment("requires_capture")), VOID: ok(payment("requires_capture")), REFUND: listed()}
DONE = {CAPTURE: ok(CAPTURED), VOID: ok(payment("canceled")), REFUND: listed(refund("succeeded"))}
SENT = DONE | {REFUND: ok(refund("succeeded"))}


def decision(outcome: Outcome) -> tuple[OutcomeKind, str | None]:
    return outcome.kind, outcome.decline_code


@pytest.mark.parametrize(
    ("kind", "path", "sent"),
    [
        (
            CAPTURE,
            "/v1/payment_intents/pi_1/capture",
            {"amount_to_capture": ["1000"], "metadata[coatcheck_capture]": [REFERENCE]},
        ),
        (VOID, "/v1/payment_intents/pi_1/cancel", {}),
        (
            REFUND,
            "/v1/refunds",
            {"payment_intent": ["pi_1"], "amount": ["1000"], "metadata[coatcheck_operation]": [REFERENCE]},
        ),
    ],
)
async def test_A16_what_is_sent_is_the_same_every_time_under_the_operations_key(
    provider: StripeProvider, wire: Wire, kind: OperationKind, path: str, sent: dict[str, list[str]]
) -> None:
    wire.answers = [SENT[kind]] * 2
    for _ in range(2):
        outcome = await provider.send(action(kind))
        assert decision(outcome) == (OutcomeKind.APPROVED, None)
        assert (outcome.amount_minor, outcome.currency, outcome.reference) == (AMOUNTS[kind], "USD", REFERENCE)
    first, again = wire.sent
    method, url, headers, body = first
    assert (method, urlsplit(url).path, headers["Idempotency-Key"]) == ("post", path, REFERENCE)
    assert parse_qs(body or "") == sent
    assert (again[1], again[2]["Idempotency-Key"], again[3]) == (url, REFERENCE, body)


@pytest.mark.parametrize(("kind", "provider_reference"), [(CAPTURE, "pi_1"), (VOID, "pi_1"), (REFUND, "re_1")])
async def test_A15_sending_and_asking_name_the_same_object(
    provider: StripeProvider, wire: Wire, kind: OperationKind, provider_reference: str
) -> None:
    wire.answers = [SENT[kind], DONE[kind]]
    sent = await provider.send(action(kind))
    found = await provider.look_up(action(kind))
    assert sent.provider_reference == found.provider_reference == provider_reference
    assert sent.is_live is found.is_live is (None if kind is REFUND else False)


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        (CAPTURE, payment("requires_capture"), (OutcomeKind.NOT_SENT, None)),
        (CAPTURE, payment("processing"), (OutcomeKind.PENDING, None)),
        (CAPTURE, payment("canceled", cancellation_reason="automatic"), (OutcomeKind.DECLINED, "canceled")),
        (CAPTURE, payment("requires_payment_method"), (OutcomeKind.UNKNOWN, None)),
        (CAPTURE, payment("something_new"), (OutcomeKind.UNKNOWN, None)),
        (CAPTURE, CAPTURED, (OutcomeKind.APPROVED, None)),
        # in the dashboard, or at a stand-in: the same amount is the same money
        (CAPTURE, CAPTURED | {"metadata": {}}, (OutcomeKind.APPROVED, None)),
        (CAPTURE, CAPTURED | {"metadata": None}, (OutcomeKind.APPROVED, None)),
        (CAPTURE, CAPTURED | {"amount_received": 1234}, (OutcomeKind.UNKNOWN, None)),
        (
            CAPTURE,
            CAPTURED | {"metadata": {"coatcheck_capture": "op_another"}},
            (OutcomeKind.DECLINED, "charge_already_captured"),
        ),
        (VOID, payment("canceled"), (OutcomeKind.APPROVED, None)),
        (VOID, payment("requires_capture"), (OutcomeKind.NOT_SENT, None)),
        (VOID, payment("requires_confirmation"), (OutcomeKind.NOT_SENT, None)),
        (VOID, payment("succeeded"), (OutcomeKind.DECLINED, "charge_already_captured")),
        (VOID, payment("processing"), (OutcomeKind.UNKNOWN, None)),
        (VOID, payment("something_new"), (OutcomeKind.UNKNOWN, None)),
    ],
)
async def test_D4_a_capture_or_void_is_read_from_the_state_of_its_target(
    provider: StripeProvider,
    wire: Wire,
    kind: OperationKind,
    answer: dict[str, Any],
    expected: tuple[OutcomeKind, str | None],
) -> None:
    wire.answers = [ok(answer)]
    outcome = await provider.look_up(action(kind))
    assert decision(outcome) == expected
    assert outcome.is_cancelled is (outcome.decline_code == "canceled")
    assert (outcome.reference, outcome.provider_reference, outcome.is_live) == (REFERENCE, "pi_1", False)
    assert [(method, urlsplit(url).path) for method, url, *_ in wire.sent] == [("get", "/v1/payment_intents/pi_1")]


async def test_A15_a_capture_of_another_amount_names_it_and_is_no_approval(
    provider: StripeProvider, wire: Wire
) -> None:
    wire.answers = [ok(CAPTURED | {"amount_received": 900})] * 2
    for outcome in (await provider.send(action(CAPTURE)), await provider.look_up(action(CAPTURE))):
        assert (outcome.kind, outcome.amount_minor, outcome.currency) == (OutcomeKind.UNKNOWN, 900, "USD")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, (OutcomeKind.DECLINED, "charge_already_captured")),
        ({"coatcheck_capture": "op_another"}, (OutcomeKind.DECLINED, "charge_already_captured")),
        (MARK, (OutcomeKind.UNKNOWN, None)),  # it was ours, and took another amount: for a person
    ],
)
async def test_A15_another_amount_is_anothers_only_when_stripe_refused_ours(
    provider: StripeProvider, wire: Wire, metadata: dict[str, str], expected: tuple[OutcomeKind, str | None]
) -> None:
    refusal = refused(400, type="invalid_request_error", code="payment_intent_unexpected_state")
    wire.answers = [refusal, ok(CAPTURED | {"amount_received": 900, "metadata": metadata})]
    outcome = await provider.send(action(CAPTURE))
    assert decision(outcome) == expected
    assert outcome.amount_minor == (900 if metadata is MARK else None)


async def test_A15_what_was_only_authorized_is_not_compared_with_a_part_of_it(
    provider: StripeProvider, wire: Wire
) -> None:
    wire.answers = [UNTOUCHED[CAPTURE]]
    outcome = await provider.look_up(action(CAPTURE))
    assert (outcome.kind, outcome.amount_minor, outcome.currency) == (OutcomeKind.NOT_SENT, None, None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refund("succeeded"), (OutcomeKind.APPROVED, None)),
        (refund("pending"), (OutcomeKind.PENDING, None)),
        (refund("requires_action"), (OutcomeKind.PENDING, None)),
        (
            refund("failed", failure_reason="expired_or_canceled_card"),
            (OutcomeKind.DECLINED, "expired_or_canceled_card"),
        ),
        (refund("failed", failure_reason=None), (OutcomeKind.DECLINED, "failed")),
        (refund("canceled", failure_reason="merchant_request"), (OutcomeKind.DECLINED, "merchant_request")),
        (refund("canceled"), (OutcomeKind.DECLINED, "canceled")),
        (refund(None), (OutcomeKind.UNKNOWN, None)),
        (refund("something_new"), (OutcomeKind.UNKNOWN, None)),
    ],
)
async def test_D6_each_status_of_a_refund(
    provider: StripeProvider, wire: Wire, answer: dict[str, Any], expected: tuple[OutcomeKind, str | None]
) -> None:
    wire.answers = [ok(answer), ok(answer), listed(answer)]
    known = action(REFUND, provider_reference="re_1")
    outcomes = (
        await provider.send(action(REFUND)),
        await provider.look_up(known),
        await provider.look_up(action(REFUND)),
    )
    for outcome in outcomes:
        assert decision(outcome) == expected
        assert (outcome.provider_reference, outcome.reference) == ("re_1", REFERENCE)
        assert (outcome.amount_minor, outcome.currency) == (1000, "USD")
    assert urlsplit(wire.sent[1][1]).path == "/v1/refunds/re_1"


async def test_A15_a_refund_of_another_payment_is_no_approval(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [ok(refund("succeeded", payment_intent="pi_2"))]
    assert (await provider.send(action(REFUND))).kind is OutcomeKind.UNKNOWN


async def test_A14_a_refund_without_an_id_is_listed_by_its_payment(provider: StripeProvider, wire: Wire) -> None:
    other = refund("succeeded", id="re_0", metadata={"coatcheck_operation": "op_another"})
    wire.answers = [listed(other, has_more=True), listed(other | {"metadata": None}), listed(other)]
    assert (await provider.look_up(action(REFUND))).kind is OutcomeKind.NOT_FOUND
    assert (await provider.look_up(action(REFUND))).kind is OutcomeKind.NOT_FOUND
    first, second, _ = (parse_qs(urlsplit(url).query) for _, url, *_ in wire.sent)
    assert first == {"payment_intent": ["pi_1"], "limit": ["100"]}
    assert second == first | {"starting_after": ["re_0"]}


@pytest.mark.parametrize(
    ("statuses", "kind"),
    [
        (("failed", "succeeded"), OutcomeKind.APPROVED),
        (("failed", "pending"), OutcomeKind.PENDING),
        (("failed", "failed"), OutcomeKind.DECLINED),
        (("succeeded", "succeeded"), OutcomeKind.UNKNOWN),
    ],
)
async def test_D2_of_several_refunds_the_one_that_moved_money_speaks(
    provider: StripeProvider, wire: Wire, statuses: tuple[str, ...], kind: OutcomeKind
) -> None:
    wire.answers = [listed(*(refund(status, id=f"re_{place}") for place, status in enumerate(statuses)))]
    assert (await provider.look_up(action(REFUND))).kind is kind


REFUSALS = [
    (CAPTURE, refused(400, type="invalid_request_error", code="amount_too_large"), "amount_too_large"),
    (
        CAPTURE,
        refused(402, type="card_error", code="capture_charge_authorization_expired"),
        "capture_charge_authorization_expired",
    ),
    (VOID, refused(400, type="invalid_request_error"), "invalid_request"),
    (REFUND, refused(400, type="invalid_request_error", code="charge_already_refunded"), "charge_already_refunded"),
    (REFUND, refused(400, type="invalid_request_error", code="charge_disputed"), "charge_disputed"),
    (
        REFUND,
        refused(400, type="invalid_request_error", code="payment_intent_unexpected_state"),
        "payment_intent_unexpected_state",
    ),
    (REFUND, refused(400, type="invalid_request_error", param="amount"), "invalid_request"),
    (REFUND, refused(402, type="card_error", code="balance_insufficient"), "balance_insufficient"),
]


@pytest.mark.parametrize(("kind", "refusal", "code"), REFUSALS)
async def test_A1_a_refusal_is_believed_when_nothing_was_done(
    provider: StripeProvider, wire: Wire, kind: OperationKind, refusal: Answer, code: str
) -> None:
    wire.answers = [refusal, UNTOUCHED[kind]]
    outcome = await provider.send(action(kind))
    assert decision(outcome) == (OutcomeKind.DECLINED, code)
    assert "req_1" in (outcome.evidence or "")
    assert outcome.is_cancelled is False
    assert [method for method, *_ in wire.sent] == ["post", "get"]


@pytest.mark.parametrize(("kind", "refusal"), [row[:2] for row in REFUSALS])
async def test_A1_D2_a_refusal_of_what_an_earlier_sending_did_is_its_approval(
    provider: StripeProvider, wire: Wire, kind: OperationKind, refusal: Answer
) -> None:
    wire.answers = [refusal, DONE[kind]]
    outcome = await provider.send(action(kind))
    assert decision(outcome) == (OutcomeKind.APPROVED, None)
    assert (outcome.amount_minor, outcome.reference) == (AMOUNTS[kind], REFERENCE)


@pytest.mark.parametrize(("kind", "refusal"), [row[:2] for row in REFUSALS])
@pytest.mark.parametrize(
    "then",
    [
        refused(404, type="invalid_request_error", code="resource_missing"),
        refused(401, type="invalid_request_error"),
        refused(500, type="api_error"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ConnectionTimeoutError(),
        (b"<html>", 200, {}),
    ],
)
async def test_A1_a_refusal_that_cannot_be_checked_is_unknown(
    provider: StripeProvider,
    wire: Wire,
    kind: OperationKind,
    refusal: Answer,
    then: Answer | Exception,
) -> None:
    wire.answers = [refusal, then]
    assert decision(await provider.send(action(kind))) == (OutcomeKind.UNKNOWN, None)


@pytest.mark.parametrize("kind", [CAPTURE, VOID])
@pytest.mark.parametrize("code", ["payment_intent_unexpected_state", "charge_already_captured"])
async def test_A1_a_refusal_that_contradicts_what_is_seen_is_unknown(
    provider: StripeProvider, wire: Wire, kind: OperationKind, code: str
) -> None:
    wire.answers = [refused(400, type="invalid_request_error", code=code), UNTOUCHED[kind]]
    assert decision(await provider.send(action(kind))) == (OutcomeKind.UNKNOWN, None)


@pytest.mark.parametrize(
    ("kind", "then", "expected"),
    [
        (CAPTURE, payment("canceled"), (OutcomeKind.DECLINED, "canceled")),
        (VOID, payment("succeeded"), (OutcomeKind.DECLINED, "charge_already_captured")),
    ],
)
async def test_D4_whoever_loses_the_race_of_capture_and_void_is_told_so(
    provider: StripeProvider,
    wire: Wire,
    kind: OperationKind,
    then: dict[str, Any],
    expected: tuple[OutcomeKind, str | None],
) -> None:
    wire.answers = [refused(400, type="invalid_request_error", code="payment_intent_unexpected_state"), ok(then)]
    assert decision(await provider.send(action(kind))) == expected


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (refused(401, type="invalid_request_error"), OutcomeKind.NOT_SENT),
        (refused(403, type="invalid_request_error"), OutcomeKind.NOT_SENT),
        (refused(400, type="idempotency_error"), OutcomeKind.UNKNOWN),
        (refused(409, type="idempotency_error", code="idempotency_key_in_use"), OutcomeKind.UNKNOWN),
        (refused(429, {"retry-after": "7"}, type="invalid_request_error", code="lock_timeout"), OutcomeKind.UNKNOWN),
        (refused(500, type="api_error"), OutcomeKind.UNKNOWN),
        ((b"<html>", 200, {}), OutcomeKind.UNKNOWN),
        (ok(payment("succeeded") | {"object": "charge"}), OutcomeKind.UNKNOWN),
        (aiohttp.ConnectionTimeoutError(), OutcomeKind.NOT_SENT),
        (aiohttp.ServerDisconnectedError(), OutcomeKind.UNKNOWN),
        (TimeoutError(), OutcomeKind.UNKNOWN),
    ],
)
async def test_A4_A10_A12_each_silence_of_an_action(
    provider: StripeProvider, wire: Wire, kind: OperationKind, answer: Answer | Exception, expected: OutcomeKind
) -> None:
    wire.answers = [answer, answer]
    outcome = await provider.send(action(kind))
    assert decision(outcome) == (expected, None)
    assert outcome.is_server_error is (isinstance(answer, tuple) and answer[1] >= 500)
    assert outcome.retry_after == (timedelta(seconds=7) if isinstance(answer, tuple) and answer[1] == 429 else None)
    assert decision(await provider.look_up(action(kind))) == (OutcomeKind.UNKNOWN, None)
    assert len(wire.sent) == 2


async def test_A15_an_error_shows_the_authorization_not_the_capture(provider: StripeProvider, wire: Wire) -> None:
    wire.answers = [refused(500, type="api_error", payment_intent=payment("requires_capture"))]
    outcome = await provider.send(action(CAPTURE))
    assert (outcome.kind, outcome.amount_minor, outcome.reference) == (OutcomeKind.UNKNOWN, None, None)


@pytest.mark.parametrize("kind", ACTIONS)
async def test_I2_an_action_of_test_never_meets_a_live_key(wire: Wire, kind: OperationKind) -> None:
    provider = StripeProvider("sk_live_key")
    assert (await provider.send(action(kind))).kind is OutcomeKind.NOT_SENT
    assert (await provider.look_up(action(kind))).kind is OutcomeKind.UNKNOWN
    assert wire.sent == []


@pytest.mark.parametrize("kind", ACTIONS)
async def test_without_a_target_nothing_is_asked(provider: StripeProvider, wire: Wire, kind: OperationKind) -> None:
    lost = action(kind, target_reference=None)
    assert (await provider.send(lost)).kind is OutcomeKind.NOT_SENT
    assert (await provider.look_up(lost)).kind is OutcomeKind.UNKNOWN
    assert (await provider.register(action(kind))).kind is OutcomeKind.NOT_SENT
    assert wire.sent == []


@pytest.mark.parametrize(
    ("currency", "amount_minor", "at_stripe"),
    [("JPY", 500, 500), ("ISK", 5, 500), ("UGX", 5, 500), ("MGA", 50000, 500), ("KWD", 5120, 5120)],
)
async def test_E2_E3_captures_and_refunds_speak_stripes_units(
    provider: StripeProvider, wire: Wire, currency: str, amount_minor: int, at_stripe: int
) -> None:
    words = {"currency": currency.lower(), "amount": at_stripe}
    captured = payment("succeeded", amount_received=at_stripe, metadata=MARK, **words)
    wire.answers = [ok(captured), ok(refund("succeeded", **words)), ok(payment("canceled", **words))]
    for kind in (CAPTURE, REFUND, VOID):
        outcome = await provider.send(action(kind, amount_minor=amount_minor, currency=currency))
        assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.APPROVED, amount_minor)
        assert outcome.currency == currency
    assert parse_qs(wire.sent[0][3])["amount_to_capture"] == [str(at_stripe)]
    assert parse_qs(wire.sent[1][3])["amount"] == [str(at_stripe)]


@pytest.mark.parametrize(("currency", "amount_minor"), [("KWD", 5124), ("MGA", 50050), ("IQD", 5120), ("USD", 0)])
@pytest.mark.parametrize("kind", [CAPTURE, REFUND])
async def test_E3_an_amount_that_stripe_cannot_move_exactly_is_declined_unsent(
    provider: StripeProvider, wire: Wire, kind: OperationKind, currency: str, amount_minor: int
) -> None:
    outcome = await provider.send(action(kind, currency=currency, amount_minor=amount_minor))
    assert decision(outcome) == (OutcomeKind.DECLINED, "invalid_amount")
    assert wire.sent == []


@pytest.mark.parametrize("kind", ACTIONS)
async def test_E3_an_answer_without_an_iso_equal_is_not_approved(
    provider: StripeProvider, wire: Wire, kind: OperationKind
) -> None:
    words = {"currency": "isk", "amount": 150}
    answers = {
        CAPTURE: payment("succeeded", amount_received=150, **words),
        VOID: payment("canceled", **words),
        REFUND: refund("succeeded", **words),
    }
    wire.answers = [ok(answers[kind])]
    outcome = await provider.send(action(kind, currency="ISK", amount_minor=1))
    assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.UNKNOWN, None)
