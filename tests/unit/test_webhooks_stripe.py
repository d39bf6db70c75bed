"""What Stripe's events say of our operations: the same as a look-up would, as far as an event can know it."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Notice, ReceivedEvent, WebhookReader, WebhookRefusedError
from coatcheck.providers.stripe_words import PAGE_KEY, REFERENCE_KEY
from coatcheck.providers.webhooks_stripe import StripeWebhooks
from coatcheck.states import Mode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "whsec_1"
REFERENCE = print_id(OPERATION, UUID(int=9 << 64 | 3))
MARK = {REFERENCE_KEY: REFERENCE}
ON_A_PAGE = MARK | {PAGE_KEY: "1"}
READER: WebhookReader = StripeWebhooks([SECRET], Mode.TEST)
REFUSED = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds", "message": "No."}


def payment(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": status,
        "amount": 1234,
        "amount_capturable": 0,
        "amount_received": 1234 if status == "succeeded" else 0,
        "capture_method": "automatic",
        "currency": "usd",
        "last_payment_error": None,
        "latest_charge": "ch_1",
        "livemode": False,
        "metadata": MARK,
    } | more


def refund(status: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": "re_1",
        "object": "refund",
        "amount": 200,
        "charge": "ch_1",
        "currency": "usd",
        "metadata": MARK,
        "payment_intent": "pi_1",
        "status": status,
    } | more


def session(status: str, payment_status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "cs_1",
        "object": "checkout.session",
        "amount_total": 1234,
        "currency": "usd",
        "expires_at": 1_800_000_000,
        "livemode": False,
        "metadata": MARK,
        "payment_intent": "pi_1",
        "payment_status": payment_status,
        "status": status,
        "url": None,
    } | more


def event(event_type: str, shown: dict[str, Any], **more: Any) -> bytes:
    whole = {"id": "evt_1", "object": "event", "api_version": "2026-10-28.endive", "created": 1, "type": event_type}
    rest = {"livemode": False, "pending_webhooks": 1, "request": {"id": "req_1", "idempotency_key": None}}
    return json.dumps(whole | rest | {"data": {"object": shown}} | more).encode()


def outcome_of(event_type: str, shown: dict[str, Any], **more: Any) -> Outcome:
    (notice,) = READER.parse(event(event_type, shown, **more))
    assert notice.reference == REFERENCE
    assert notice.outcome is not None
    return notice.outcome


def header_of(body: bytes, secret: str = SECRET) -> dict[str, str]:
    at = int(NOW.timestamp())
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"stripe-signature": f"t={at},v1={signed},v0={'0' * 64}"}


@pytest.mark.parametrize(
    ("event_type", "shown", "kind", "decline_code"),
    [
        ("payment_intent.succeeded", payment("succeeded"), OutcomeKind.APPROVED, None),
        ("payment_intent.processing", payment("processing"), OutcomeKind.PENDING, None),
        ("payment_intent.requires_action", payment("requires_action"), OutcomeKind.PENDING, None),
        ("payment_intent.canceled", payment("canceled"), OutcomeKind.DECLINED, "canceled"),
        (
            "payment_intent.payment_failed",
            payment("requires_payment_method", last_payment_error=REFUSED),
            OutcomeKind.DECLINED,
            "insufficient_funds",
        ),
    ],
)
def test_a_payment_intent_says_what_became_of_its_charge(
    event_type: str, shown: dict[str, Any], kind: OutcomeKind, decline_code: str | None
) -> None:
    outcome = outcome_of(event_type, shown)
    assert (outcome.kind, outcome.decline_code) == (kind, decline_code)
    assert (outcome.provider_reference, outcome.reference) == ("pi_1", REFERENCE)
    assert (outcome.amount_minor, outcome.currency, outcome.is_live) == (1234, "USD", False)
    assert outcome.is_cancelled is (shown["status"] == "canceled")
    assert "evt_1" in (outcome.evidence or "")


@pytest.mark.parametrize(
    ("event_type", "shown"),
    [
        ("payment_intent.amount_capturable_updated", payment("requires_capture", amount_capturable=1234)),
        # Captured in part: the authorization was good all the same, for all of its amount.
        ("payment_intent.succeeded", payment("succeeded", amount_received=200)),
    ],
)
def test_a_manual_payment_intent_speaks_about_the_authorization(event_type: str, shown: dict[str, Any]) -> None:
    outcome = outcome_of(event_type, shown | {"capture_method": "manual"})
    assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.APPROVED, 1234)


def test_an_authorization_that_has_lapsed_was_not_refused() -> None:
    outcome = outcome_of("payment_intent.canceled", payment("canceled", capture_method="manual"))
    assert (outcome.kind, outcome.is_cancelled) == (OutcomeKind.DECLINED, True)


def test_an_authorization_that_nobody_asked_for_is_not_an_approval() -> None:
    outcome = outcome_of("payment_intent.amount_capturable_updated", payment("requires_capture"))
    assert outcome.kind is OutcomeKind.UNKNOWN


def test_a_charge_received_in_part_shows_the_part_for_comparison() -> None:
    outcome = outcome_of("payment_intent.succeeded", payment("succeeded", amount_received=1000))
    assert (outcome.kind, outcome.amount_minor) == (OutcomeKind.APPROVED, 1000)


@pytest.mark.parametrize("status", ["requires_confirmation", "requires_payment_method", "a_new_status"])
def test_C2_a_late_event_never_says_that_sending_again_is_safe(status: str) -> None:
    outcome = outcome_of("payment_intent.requires_action", payment(status))
    assert outcome.kind is OutcomeKind.UNKNOWN


def test_C2_the_status_shown_decides_and_not_the_name_of_the_event() -> None:
    assert outcome_of("payment_intent.succeeded", payment("processing")).kind is OutcomeKind.PENDING


def test_A9_a_card_refused_on_a_page_does_not_end_the_order_while_the_buyer_may_try_another() -> None:
    shown = payment("requires_payment_method", last_payment_error=REFUSED, metadata=ON_A_PAGE)
    outcome = outcome_of("payment_intent.payment_failed", shown)
    assert (outcome.kind, outcome.decline_code) == (OutcomeKind.PENDING, None)


def test_a_payment_on_a_page_is_not_taken_for_another_object_than_the_page() -> None:
    outcome = outcome_of("payment_intent.succeeded", payment("succeeded", metadata=ON_A_PAGE))
    assert (outcome.kind, outcome.provider_reference) == (OutcomeKind.APPROVED, None)


@pytest.mark.parametrize("event_type", ["refund.created", "refund.updated", "refund.failed", "charge.refund.updated"])
@pytest.mark.parametrize(
    ("shown", "kind", "decline_code"),
    [
        (refund("succeeded"), OutcomeKind.APPROVED, None),
        (refund("pending"), OutcomeKind.PENDING, None),
        (refund("requires_action"), OutcomeKind.PENDING, None),
        (refund("failed", failure_reason="lost_or_stolen_card"), OutcomeKind.DECLINED, "lost_or_stolen_card"),
        (refund("canceled"), OutcomeKind.DECLINED, "canceled"),
        (refund("a_new_status"), OutcomeKind.UNKNOWN, None),
        (refund(None), OutcomeKind.UNKNOWN, None),
    ],
)
def test_a_refunds_event_speaks_about_the_refund(
    event_type: str, shown: dict[str, Any], kind: OutcomeKind, decline_code: str | None
) -> None:
    outcome = outcome_of(event_type, shown)
    assert (outcome.kind, outcome.decline_code) == (kind, decline_code)
    assert (outcome.provider_reference, outcome.amount_minor, outcome.currency) == ("re_1", 200, "USD")


@pytest.mark.parametrize("is_live", [False, True])
def test_a_refund_is_of_its_events_mode(is_live: bool) -> None:  # noqa: FBT001 - the parameter of a test
    assert outcome_of("refund.created", refund("succeeded"), livemode=is_live).is_live is is_live


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        (session("complete", "paid"), OutcomeKind.APPROVED),
        (session("complete", "unpaid"), OutcomeKind.PENDING),
        (session("complete", "no_payment_required"), OutcomeKind.UNKNOWN),
        (session("a_new_status", "paid"), OutcomeKind.UNKNOWN),
        (session("open", "unpaid"), OutcomeKind.PENDING),
    ],
)
def test_a_completed_page_is_approved_only_when_it_says_paid(shown: dict[str, Any], kind: OutcomeKind) -> None:
    outcome = outcome_of("checkout.session.completed", shown)
    assert (outcome.kind, outcome.provider_reference) == (kind, "cs_1")
    assert (outcome.amount_minor, outcome.currency, outcome.is_live) == (1234, "USD", False)


def test_a_page_that_expired_refused_no_card() -> None:
    outcome = outcome_of("checkout.session.expired", session("expired", "unpaid"))
    assert (outcome.kind, outcome.decline_code, outcome.is_cancelled) == (OutcomeKind.DECLINED, "page_expired", True)
    assert outcome.provider_reference == "cs_1"


@pytest.mark.parametrize(
    ("currency", "at_stripe", "amount_minor"), [("isk", 500, 5), ("mga", 500, 50_000), ("kwd", 5120, 5120)]
)
def test_E2_amounts_are_told_in_the_minor_units_of_iso(currency: str, at_stripe: int, amount_minor: int) -> None:
    paid = payment("succeeded", currency=currency, amount=at_stripe, amount_received=at_stripe)
    given_back = refund("succeeded", currency=currency, amount=at_stripe)
    page = session("complete", "paid", currency=currency, amount_total=at_stripe)
    told = [
        outcome_of("payment_intent.succeeded", paid),
        outcome_of("refund.created", given_back),
        outcome_of("checkout.session.completed", page),
    ]
    assert {(outcome.amount_minor, outcome.currency) for outcome in told} == {(amount_minor, currency.upper())}


@pytest.mark.parametrize(
    ("event_type", "shown"),
    [
        ("payment_intent.succeeded", payment("succeeded", amount_received=150)),
        ("refund.created", refund("succeeded", amount=150)),
        ("checkout.session.completed", session("complete", "paid", amount_total=150)),
        ("checkout.session.expired", session("expired", "unpaid", amount_total=150)),
    ],
)
def test_E3_an_amount_that_iso_has_no_unit_for_decides_nothing(event_type: str, shown: dict[str, Any]) -> None:
    outcome = outcome_of(event_type, shown | {"currency": "isk"})
    assert (outcome.kind, outcome.cause, outcome.amount_minor) == (OutcomeKind.UNKNOWN, "unreadable amount", None)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"order": "1"}, {REFERENCE_KEY: "order-1"}, {REFERENCE_KEY: REFERENCE + "a"}, [REFERENCE]]
)
def test_what_does_not_carry_our_reference_is_none_of_ours_whatever_its_shape(metadata: object) -> None:
    # A page in setup mode has neither amount nor currency: nobody here must stumble over it.
    shown = {"object": "checkout.session", "mode": "setup", "currency": None, "metadata": metadata}
    assert READER.parse(event("checkout.session.completed", shown)) == [Notice(type="checkout.session.completed")]
    assert READER.parse(event("payment_intent.succeeded", payment("succeeded", metadata=metadata))) == [
        Notice(type="payment_intent.succeeded")
    ]


@pytest.mark.parametrize("event_type", ["payment_intent.created", "charge.succeeded", "v2.core.event", "unheard.of"])
def test_C19_a_type_that_nobody_acts_on_is_named_and_left_alone(event_type: str) -> None:
    assert READER.parse(event(event_type, payment("succeeded"))) == [Notice(type=event_type)]
    assert READER.parse(event(event_type, {}, data=None)) == [Notice(type=event_type)]


@pytest.mark.parametrize(
    ("event_type", "shown"),
    [
        ("payment_intent.succeeded", refund("succeeded")),
        ("refund.created", payment("succeeded")),
        ("checkout.session.completed", payment("succeeded")),
        ("payment_intent.succeeded", payment("succeeded", amount="1234")),
        ("payment_intent.succeeded", payment("succeeded", amount=12.0)),
        ("payment_intent.succeeded", payment("succeeded", livemode=None)),
        ("refund.created", refund("succeeded", currency=None)),
    ],
)
def test_C16_an_event_that_shows_something_else_cannot_be_read(event_type: str, shown: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it ends as a dead letter
        READER.parse(event(event_type, shown))


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        event("payment_intent.succeeded", payment("succeeded")).replace(b'"status": ', b'"status": "x", "status": '),
        event("payment_intent.succeeded", payment("succeeded", description="\0")),
        event("payment_intent.succeeded", payment("succeeded", amount=float("nan"))),
        event("payment_intent.succeeded", payment("succeeded", amount=2**53 + 1)),
        event("payment_intent.succeeded", payment("succeeded"), id=None),
        event("payment_intent.succeeded", payment("succeeded"), data=None),
    ],
)
def test_C16_poison_is_received_and_becomes_a_dead_letter_when_it_is_read(raw: bytes) -> None:
    (kept,) = READER.receive(header_of(raw), raw, NOW)
    assert kept.raw == raw
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it ends as a dead letter
        READER.parse(kept.raw)


def test_C3_an_event_sent_twice_is_received_under_one_key() -> None:
    body = event("payment_intent.succeeded", payment("succeeded"))
    received = [READER.receive(header_of(body), body, NOW) for _ in range(2)]
    assert received == [[ReceivedEvent(account="platform", event_id="evt_1", raw=body)]] * 2


def test_C10_the_endpoint_of_a_connected_account_takes_its_events_and_no_others() -> None:
    connected = StripeWebhooks([SECRET], Mode.TEST, "acct_1")
    own = event("payment_intent.succeeded", payment("succeeded"))
    theirs = event("payment_intent.succeeded", payment("succeeded"), account="acct_1")
    another = event("payment_intent.succeeded", payment("succeeded"), account="acct_2")
    assert [kept.account for kept in connected.receive(header_of(theirs), theirs, NOW)] == ["acct_1"]
    for reader, body in [(connected, own), (connected, another), (READER, theirs)]:
        with pytest.raises(WebhookRefusedError, match="another account"):
            reader.receive(header_of(body), body, NOW)


def test_C5_C10_a_forged_event_and_one_of_the_other_mode_are_refused() -> None:
    body = event("payment_intent.succeeded", payment("succeeded"))
    with pytest.raises(WebhookRefusedError, match="no signature"):
        READER.receive(header_of(body, "whsec_2"), body, NOW)
    with pytest.raises(WebhookRefusedError, match="no signature header"):
        READER.receive({"simulator-signature": header_of(body)["stripe-signature"]}, body, NOW)
    with pytest.raises(WebhookRefusedError, match="other mode"):
        StripeWebhooks([SECRET], Mode.LIVE).receive(header_of(body), body, NOW)
