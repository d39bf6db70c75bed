"""What the simulated PSP's events say of our operations: the same as a look-up would."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.unit.simulator_desk import START, Desk

from coatcheck.ids import OPERATION, print_id
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Notice, WebhookReader, WebhookRefusedError
from coatcheck.providers.webhooks_simulated import SimulatedWebhooks
from coatcheck.simulator.webhooks import event_of, sign
from coatcheck.states import Mode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "whsec_simulator"
REFERENCE = print_id(OPERATION, UUID(int=7 << 64 | 5))
OTHER = print_id(OPERATION, UUID(int=7 << 64 | 6))
READER: WebhookReader = SimulatedWebhooks([SECRET], "shop-a", Mode.TEST)


def charge(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "ch_1",
        "status": status,
        "amount": 1234,
        "currency": "EUR",
        "reference": REFERENCE,
        "livemode": False,
        "decline_code": None,
        "amount_captured": 0,
        "amount_refunded": 0,
        "expires_at": None,
        "disputed": False,
    } | more


def action(kind: str, status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "re_1",
        "object": kind,
        "charge": "ch_1",
        "amount": 200,
        "currency": "EUR",
        "reference": REFERENCE,
        "status": status,
        "failure_code": None,
        "livemode": False,
        "created": 1,
    } | more


def page(status: str, *charges: dict[str, Any] | None) -> dict[str, Any]:
    references = (REFERENCE, OTHER)
    return {
        "id": "cs_1",
        "object": "session",
        "reference": "pay_x",
        "status": status,
        "url": "http://psp/page/cs_1",
        "return_url": "https://shop/done",
        "expires_at": 1,
        "livemode": False,
        "charges": [
            {"reference": references[index], "amount": 100 + index, "currency": "EUR", "charge": made}
            for index, made in enumerate(charges)
        ],
    }


def event(event_type: str, shown: dict[str, Any], **more: Any) -> bytes:
    whole = {"id": "evt_1", "type": event_type, "created": 1, "livemode": False, "account": "shop-a"}
    return json.dumps(whole | {"data": {"object": shown}} | more).encode()


def outcomes(event_type: str, shown: dict[str, Any]) -> list[Outcome | None]:
    return [notice.outcome for notice in READER.parse(event(event_type, shown))]


def header_of(body: bytes, secret: str = SECRET) -> dict[str, str]:
    at = int(NOW.timestamp())
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"simulator-signature": f"t={at},v1={signed}"}


def told(kind: OutcomeKind, **more: Any) -> Outcome:
    words: dict[str, Any] = {"provider_reference": "ch_1", "reference": REFERENCE, "amount_minor": 1234}
    return Outcome(kind=kind, **(words | {"currency": "EUR", "is_live": False} | more))


@pytest.mark.parametrize(
    ("event_type", "shown", "expected"),
    [
        ("charge.succeeded", charge("succeeded", amount_captured=1234), told(OutcomeKind.APPROVED)),
        ("charge.pending", charge("pending"), told(OutcomeKind.PENDING)),
        (
            "charge.declined",
            charge("declined", decline_code="insufficient_funds"),
            told(OutcomeKind.DECLINED, decline_code="insufficient_funds"),
        ),
        (
            "charge.authorized",
            charge("authorized", expires_at=1_800_000_000),
            told(OutcomeKind.APPROVED, expires_at=datetime.fromtimestamp(1_800_000_000, UTC)),
        ),
        # A part was captured: the authorization lives, and its amount is the whole one.
        ("charge.captured", charge("authorized", amount_captured=200), told(OutcomeKind.APPROVED)),
        ("charge.captured", charge("succeeded", amount_captured=200), told(OutcomeKind.APPROVED)),
    ],
)
def test_a_charges_event_says_what_became_of_it(event_type: str, shown: dict[str, Any], expected: Outcome) -> None:
    assert READER.parse(event(event_type, shown)) == [
        Notice(type=event_type, reference=REFERENCE, outcome=expected),
    ]


@pytest.mark.parametrize("status", ["voided", "expired"])
def test_a_charge_that_the_psp_ended_was_not_refused(status: str) -> None:
    (outcome,) = outcomes(f"charge.{status}", charge(status))
    assert outcome is not None
    assert (outcome.kind, outcome.is_cancelled, outcome.amount_minor) == (OutcomeKind.DECLINED, True, 1234)


@pytest.mark.parametrize("event_type", ["charge.voided", "charge.expired"])
def test_D5_the_end_of_an_authorization_of_which_a_part_was_captured_is_its_end(event_type: str) -> None:
    """Found by the drill: it leaves a charge that succeeded, and the hold of the rest was never released here."""
    (outcome,) = outcomes(event_type, charge("succeeded", amount_captured=200))
    assert outcome is not None
    assert (outcome.kind, outcome.is_cancelled, outcome.decline_code) == (OutcomeKind.DECLINED, True, "released")


def test_C2_the_status_shown_decides_and_not_the_name_of_the_event() -> None:
    (outcome,) = outcomes("charge.authorized", charge("succeeded"))
    assert outcome == told(OutcomeKind.APPROVED)


@pytest.mark.parametrize(
    ("event_type", "shown", "expected"),
    [
        ("capture.succeeded", action("capture", "succeeded"), (OutcomeKind.APPROVED, None)),
        (
            "capture.failed",
            action("capture", "failed", failure_code="capture_declined"),
            (OutcomeKind.DECLINED, "capture_declined"),
        ),
        ("void.succeeded", action("void", "succeeded"), (OutcomeKind.APPROVED, None)),
        ("refund.succeeded", action("refund", "succeeded"), (OutcomeKind.APPROVED, None)),
        ("refund.pending", action("refund", "pending"), (OutcomeKind.PENDING, None)),
        (
            "refund.failed",
            action("refund", "failed", failure_code="bank_returned"),
            (OutcomeKind.DECLINED, "bank_returned"),
        ),
    ],
)
def test_an_actions_event_speaks_about_the_action(
    event_type: str, shown: dict[str, Any], expected: tuple[OutcomeKind, str | None]
) -> None:
    kind, decline_code = expected
    assert READER.parse(event(event_type, shown)) == [
        Notice(
            type=event_type,
            reference=REFERENCE,
            outcome=told(kind, provider_reference="re_1", amount_minor=200, decline_code=decline_code),
        )
    ]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_page_that_ended_unpaid_says_so_of_every_order_without_a_charge(status: str) -> None:
    notices = READER.parse(event(f"session.{status}", page(status, None, None)))
    assert [notice.reference for notice in notices] == [REFERENCE, OTHER]
    assert [notice.outcome for notice in notices] == [
        told(
            OutcomeKind.DECLINED,
            provider_reference="cs_1",
            reference=reference,
            amount_minor=amount,
            decline_code=f"page_{status}",
            is_cancelled=True,
        )
        for reference, amount in [(REFERENCE, 100), (OTHER, 101)]
    ]


def test_a_page_that_ended_says_nothing_of_an_order_that_has_a_charge() -> None:
    notices = READER.parse(event("session.cancelled", page("cancelled", charge("declined"), None)))
    assert [notice.reference for notice in notices] == [OTHER]


def test_a_paid_page_speaks_about_each_charge() -> None:
    shown = page("completed", charge("succeeded"), charge("authorized", id="ch_2", reference=OTHER))
    assert READER.parse(event("session.completed", shown)) == [
        Notice(type="session.completed", reference=REFERENCE, outcome=told(OutcomeKind.APPROVED)),
        Notice(
            type="session.completed",
            reference=OTHER,
            outcome=told(OutcomeKind.APPROVED, provider_reference="ch_2", reference=OTHER),
        ),
    ]


def test_a_paid_page_without_a_charge_says_nothing_of_that_order() -> None:
    notices = READER.parse(event("session.completed", page("completed", charge("succeeded"), None)))
    assert [notice.reference for notice in notices] == [REFERENCE]


@pytest.mark.parametrize("event_type", ["dispute.lost", "mandate.made", "charge"])
def test_C19_a_type_that_nobody_acts_on_is_named_and_left_alone(event_type: str) -> None:
    assert READER.parse(event(event_type, charge("succeeded"))) == [Notice(type=event_type)]
    assert READER.parse(event(event_type, {}, data=None)) == [Notice(type=event_type)]


@pytest.mark.parametrize("reference", ["", "order-1", "pay_" + REFERENCE[3:], REFERENCE.upper(), REFERENCE + "a"])
def test_a_charge_that_is_not_of_ours_is_none_of_ours(reference: str) -> None:
    assert READER.parse(event("charge.succeeded", charge("succeeded", reference=reference))) == [
        Notice(type="charge.succeeded")
    ]


def test_C6_what_the_event_shows_is_passed_on_for_comparison() -> None:
    (outcome,) = outcomes("charge.succeeded", charge("succeeded", amount=1235, currency="USD", livemode=True))
    assert outcome == told(OutcomeKind.APPROVED, amount_minor=1235, currency="USD", is_live=True)


@pytest.mark.parametrize(
    ("event_type", "shown"),
    [
        ("charge.succeeded", charge("refunded")),
        ("charge.succeeded", charge("succeeded", amount="1234")),
        ("charge.succeeded", charge("succeeded", amount=12.5)),
        ("charge.succeeded", charge("succeeded", amount=None)),
        ("charge.authorized", charge("authorized", expires_at=10**15)),
        ("charge.succeeded", action("refund", "succeeded")),
        ("charge.succeeded", {}),
        ("refund.succeeded", charge("succeeded")),
        ("refund.succeeded", action("refund", "reversed")),
        ("session.expired", page("open", None)),
        ("session.completed", page("completed", charge("odd"))),
    ],
)
def test_C16_an_event_that_shows_something_else_cannot_be_read(event_type: str, shown: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it ends as a dead letter
        READER.parse(event(event_type, shown))


@pytest.mark.parametrize(
    "raw",
    [
        b"not JSON",
        event("charge.succeeded", charge("succeeded")).replace(b'"amount": 1234', b'"amount": 1, "amount": 1234'),
        event("charge.succeeded", charge("succeeded", reference=REFERENCE + "\0")),
        event("charge.succeeded", charge("succeeded")).replace(b"1234", b"NaN"),
        event("charge.succeeded", charge("succeeded"), id=None),
        event("charge.succeeded", charge("succeeded"), data=None),
    ],
)
def test_C16_poison_is_received_and_becomes_a_dead_letter_when_it_is_read(raw: bytes) -> None:
    (kept,) = READER.receive(header_of(raw), raw, NOW)
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it ends as a dead letter
        READER.parse(kept.raw)


def test_C3_an_event_sent_twice_is_received_under_one_key() -> None:
    body = event("charge.succeeded", charge("succeeded"))
    keys = {(kept.account, kept.event_id) for _ in range(2) for kept in READER.receive(header_of(body), body, NOW)}
    assert keys == {("shop-a", "evt_1")}


def test_C5_C10_a_forged_event_one_of_the_other_mode_and_one_of_another_account_are_refused() -> None:
    body = event("charge.succeeded", charge("succeeded"))
    with pytest.raises(WebhookRefusedError, match="no signature"):
        READER.receive(header_of(body, "whsec_forged"), body, NOW)
    live = event("charge.succeeded", charge("succeeded"), livemode=True)
    with pytest.raises(WebhookRefusedError, match="other mode"):
        READER.receive(header_of(live), live, NOW)
    another = event("charge.succeeded", charge("succeeded"), account="shop-b")
    with pytest.raises(WebhookRefusedError, match="another account"):
        READER.receive(header_of(another), another, NOW)


def test_an_endpoint_must_say_whose_it_is() -> None:
    with pytest.raises(ValueError, match="account"):
        SimulatedWebhooks([SECRET], "", Mode.TEST)


def heard_from(desk: Desk) -> list[tuple[str, str | None, OutcomeKind, int | None]]:
    """All that the simulator told, as it would post it, and as it is read here."""
    reader = SimulatedWebhooks(["whsec_own"], desk.told[0].account, Mode.TEST)
    heard = []
    for happening in desk.told:
        body = msgspec.json.encode(event_of(happening))
        headers = {"simulator-signature": sign("whsec_own", body, int(START))}
        (kept,) = reader.receive(headers, body, datetime.fromtimestamp(START, UTC))
        for notice in reader.parse(kept.raw):
            assert notice.outcome is not None
            heard.append((notice.type, notice.reference, notice.outcome.kind, notice.outcome.amount_minor))
    return heard


def test_the_simulators_own_events_of_a_charge_are_read() -> None:
    desk = Desk()
    references = [print_id(OPERATION, UUID(int=number)) for number in range(5)]
    paid = desk.charge(reference=references[0])
    desk.post(f"/v1/charges/{paid}/refund", {"amount": 300, "reference": references[1]})
    held = desk.authorize(reference=references[2])
    desk.post(f"/v1/charges/{held}/capture", {"amount": 400, "reference": references[3], "final": False})
    desk.post(f"/v1/charges/{held}/void", {"reference": references[4]})
    desk.charge("tok_decline_insufficient_funds", reference=references[0])
    assert heard_from(desk) == [
        ("charge.succeeded", references[0], OutcomeKind.APPROVED, 1000),
        ("refund.succeeded", references[1], OutcomeKind.APPROVED, 300),
        ("charge.authorized", references[2], OutcomeKind.APPROVED, 1000),
        ("capture.succeeded", references[3], OutcomeKind.APPROVED, 400),
        ("charge.captured", references[2], OutcomeKind.APPROVED, 1000),
        ("void.succeeded", references[4], OutcomeKind.APPROVED, 600),
        ("charge.voided", references[2], OutcomeKind.DECLINED, 1000),
        ("charge.declined", references[0], OutcomeKind.DECLINED, 1000),
    ]


def test_the_simulators_own_events_of_a_page_are_read() -> None:
    desk = Desk()
    charges = [
        {"reference": reference, "amount": amount, "currency": "EUR"}
        for reference, amount in [(REFERENCE, 700), (OTHER, 800)]
    ]
    body = {"reference": "pay_1", "return_url": "https://shop.example/back", "charges": charges}
    desk.post(f"/v1/sessions/{desk.post('/v1/sessions', body)['id']}/expire", {"reference": "pay_1"})
    assert heard_from(desk) == [
        ("session.expired", REFERENCE, OutcomeKind.DECLINED, 700),
        ("session.expired", OTHER, OutcomeKind.DECLINED, 800),
    ]


def dispute(**more: Any) -> dict[str, Any]:
    taken = {"id": "df_1", "amount": -1234, "fee": 1500, "currency": "EUR", "created": 2}
    return {
        "id": "dp_1",
        "object": "dispute",
        "charge": "ch_1",
        "reference": REFERENCE,
        "amount": 1234,
        "currency": "EUR",
        "fee": 1500,
        "reason": "fraudulent",
        "status": "needs_response",
        "evidence_due": 3,
        "livemode": False,
        "created": 1,
        "version": 2,
        "evidence": [],
        "movements": [taken],
    } | more


@pytest.mark.parametrize("verb", ["opened", "updated", "funds_withdrawn", "funds_reinstated", "closed"])
def test_D3_a_dispute_is_told_with_its_standing_and_its_money(verb: str) -> None:
    (notice,) = READER.parse(event(f"dispute.{verb}", dispute()))
    news = notice.dispute
    assert news is not None
    assert news.is_whole
    assert (news.provider, news.provider_reference, news.mode, news.word_no) == ("simulator", "dp_1", "test", 2)
    assert (news.reference, news.charge_reference, news.status) == (REFERENCE, "ch_1", "NEEDS_RESPONSE")
    (moved,) = news.movements
    assert (moved.name, moved.gross_minor, moved.fee_minor, moved.currency) == ("df_1", -1234, 1500, "EUR")
    assert notice.outcome is None


def test_a_dispute_of_a_charge_that_is_not_ours_is_none_of_ours() -> None:
    assert READER.parse(event("dispute.opened", dispute(reference="their-own"))) == [Notice(type="dispute.opened")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "dancing"},
        {"amount": 0},
        {"amount": 2**53},
        {"version": 0},
        {"currency": "eur"},
        {"object": "charge"},
    ],
)
def test_C16_a_dispute_that_means_nothing_cannot_be_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        READER.parse(event("dispute.opened", dispute(**wrong)))
