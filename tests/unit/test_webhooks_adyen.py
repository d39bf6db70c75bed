"""Adyen's standard webhooks: every item proven by itself, and only what was signed is ever used."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from coatcheck.ids import OPERATION, print_id
from coatcheck.money import EXPONENTS
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import NotChargeableError, Notice, ReceivedEvent, WebhookReader, WebhookRefusedError
from coatcheck.providers.webhooks_adyen import AdyenWebhooks, from_adyen_amount, to_adyen_amount
from coatcheck.states import Mode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
# Key and signature of the example that Adyen publishes, in its documentation and in its libraries' tests.
KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
OTHER_KEY = "11223344D785FBAE710E7F943F307971BB61B21281C98C9129B3D4018A57B2EB"
PUBLISHED: dict[str, Any] = {
    "pspReference": "7914073381342284",
    "originalReference": "",
    "merchantAccountCode": "TestMerchant",
    "merchantReference": "TestPayment-1407325143704",
    "amount": {"value": 1130, "currency": "EUR"},
    "eventCode": "AUTHORISATION",
    "success": "true",
    "eventDate": "2019-05-06T17:15:34.121+02:00",
    "additionalData": {"hmacSignature": "coqCmt/IZ4E3CzPvMY8zTjQVL5hYJUiBRg8UU+iCWo0="},
}
REFERENCE = print_id(OPERATION, UUID(int=11 << 64 | 3))
READER: WebhookReader = AdyenWebhooks([KEY], "TestMerchant", Mode.TEST)


def text_of(item: dict[str, Any]) -> str:
    amount = item.get("amount") or {}
    fields = [item.get(name) or "" for name in ("pspReference", "originalReference", "merchantAccountCode")]
    fields += [item.get("merchantReference") or "", amount.get("value", ""), amount.get("currency", "")]
    return ":".join(map(str, [*fields, item["eventCode"], str(item["success"]).lower()]))


def signature_of(text: str, key: str = KEY) -> str:
    return base64.b64encode(hmac.new(bytes.fromhex(key), text.encode(), hashlib.sha256).digest()).decode()


def signed(key: str = KEY, **fields: Any) -> dict[str, Any]:
    item = PUBLISHED | {"merchantReference": REFERENCE} | fields
    return item | {"additionalData": {"hmacSignature": signature_of(text_of(item), key)}}


def batch(*items: dict[str, Any], live: object = "false") -> bytes:
    return json.dumps(
        {"live": live, "notificationItems": [{"NotificationRequestItem": item} for item in items]}
    ).encode()


def received(*items: dict[str, Any], reader: WebhookReader = READER) -> list[ReceivedEvent]:
    return reader.receive({}, batch(*items), NOW)


def outcome_of(**fields: Any) -> Outcome:
    (event,) = received(signed(**fields))
    (notice,) = READER.parse(event.raw)
    assert notice.reference == REFERENCE
    assert notice.outcome is not None
    return notice.outcome


def test_the_example_that_adyen_publishes_is_proven() -> None:
    (event,) = received(PUBLISHED)
    assert (event.account, event.event_id) == ("TestMerchant", "7914073381342284:AUTHORISATION:true")
    assert READER.parse(event.raw) == [Notice(type="AUTHORISATION")]  # it is not one of our references


@pytest.mark.parametrize(
    ("event_code", "success", "kind", "decline_code"),
    [
        ("AUTHORISATION", "true", OutcomeKind.APPROVED, None),
        ("AUTHORISATION", "false", OutcomeKind.DECLINED, "refused"),
        ("CAPTURE", "true", OutcomeKind.APPROVED, None),
        ("CAPTURE", "false", OutcomeKind.DECLINED, "capture_refused"),
        ("CAPTURE_FAILED", "true", OutcomeKind.DECLINED, "capture_failed"),
        ("CAPTURE_FAILED", "false", OutcomeKind.UNKNOWN, None),
        ("CANCELLATION", "true", OutcomeKind.APPROVED, None),
        ("CANCELLATION", "false", OutcomeKind.DECLINED, "cancellation_refused"),
        ("REFUND", "true", OutcomeKind.APPROVED, None),
        ("REFUND", "false", OutcomeKind.DECLINED, "refund_refused"),
        ("REFUND_FAILED", "true", OutcomeKind.DECLINED, "refund_failed"),
        ("REFUND_FAILED", "false", OutcomeKind.UNKNOWN, None),
        ("REFUNDED_REVERSED", "true", OutcomeKind.DECLINED, "refunded_reversed"),
        ("OFFER_CLOSED", "true", OutcomeKind.DECLINED, "offer_closed"),
        ("OFFER_CLOSED", "false", OutcomeKind.UNKNOWN, None),
    ],
)
def test_an_event_speaks_about_the_operation_in_its_reference(
    event_code: str, success: str, kind: OutcomeKind, decline_code: str | None
) -> None:
    outcome = outcome_of(eventCode=event_code, success=success, pspReference="PSP2", originalReference="PSP1")
    assert (outcome.kind, outcome.decline_code) == (kind, decline_code)
    assert (outcome.provider_reference, outcome.reference, outcome.is_live) == ("PSP2", REFERENCE, False)
    assert (outcome.amount_minor, outcome.currency) == (1130, "EUR")
    assert outcome.is_cancelled is (decline_code == "offer_closed")


@pytest.mark.parametrize(
    "event_code", ["NOTIFICATION_OF_FRAUD", "REPORT_AVAILABLE", "AUTHORISATION_ADJUSTMENT", "UNHEARD_OF"]
)
def test_C19_an_event_that_nobody_acts_on_is_named_and_left_alone(event_code: str) -> None:
    (event,) = received(signed(eventCode=event_code, amount=None))
    assert READER.parse(event.raw) == [Notice(type=event_code)]


def test_success_may_be_a_boolean() -> None:
    (event,) = received(signed(success=False))
    assert event.event_id.endswith(":false")
    (notice,) = READER.parse(event.raw)
    assert notice.outcome is not None
    assert notice.outcome.kind is OutcomeKind.DECLINED


def test_C3_a_duplicate_with_another_date_is_the_same_event_and_another_success_is_not() -> None:
    first, later = signed(), signed(eventDate="2026-11-21T12:00:01+00:00")
    assert received(first) == received(later) == received(first, later)
    assert received(first, signed(amount={"value": 1, "currency": "EUR"})) == received(first)
    assert [event.event_id for event in received(first, signed(success="false"))] == [
        "7914073381342284:AUTHORISATION:true",
        "7914073381342284:AUTHORISATION:false",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"pspReference": "7914073381342285"},
        {"originalReference": "7914073381342284"},
        {"merchantReference": print_id(OPERATION, UUID(int=1))},
        {"amount": {"value": 1131, "currency": "EUR"}},
        {"amount": {"value": 1130, "currency": "USD"}},
        {"amount": None},
        {"eventCode": "CAPTURE"},
        {"success": "false"},
        {"additionalData": {}},
        {"additionalData": None},
        {"additionalData": {"hmacSignature": ""}},
        {"additionalData": {"hmacSignature": signature_of(text_of(PUBLISHED), OTHER_KEY)}},
        {"additionalData": {"hmacSignature": signature_of(text_of(PUBLISHED)).rstrip("=")}},
        {"additionalData": {"hmacSignature": "é" * 43 + "="}},
    ],
)
def test_C5_an_item_that_is_not_as_it_was_signed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WebhookRefusedError):
        received(signed() | change)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_C8_one_bad_item_refuses_the_whole_batch_wherever_it_stands(place: int) -> None:
    items = [signed(pspReference=f"PSP{number}") for number in range(3)]
    assert len(received(*items)) == 3
    items[place] |= {"amount": {"value": 999_999, "currency": "EUR"}}
    with pytest.raises(WebhookRefusedError, match="signature"):
        received(*items)


def test_C8_a_signature_proves_its_own_item_only() -> None:
    first, second = signed(pspReference="PSP1"), signed(pspReference="PSP2")
    with pytest.raises(WebhookRefusedError, match="signature"):
        received(first, second | {"additionalData": first["additionalData"]})


def test_C7_what_is_not_signed_is_neither_stored_nor_acted_on() -> None:
    plain = signed()
    (event,) = received(plain)
    plain["additionalData"] |= {"merchantReference": "op_x", "cardSummary": "1111", "authCode": "1"}
    more = {"reason": "Refused", "paymentMethod": "visa", "operations": ["REFUND"], "eventDate": "x"}
    assert received(plain | more) == [event]
    stored = json.loads(event.raw)
    assert stored.keys() == {
        "pspReference",
        "originalReference",
        "merchantAccountCode",
        "merchantReference",
        "amount",
        "eventCode",
        "success",
    }


def test_C7_fields_cannot_be_cut_out_of_the_signed_text_in_another_way() -> None:
    # Whoever can choose a reference at this account could write the beginning of another event into it.
    paid = signed(merchantReference=f"x:y:TestMerchant:{REFERENCE}")
    recut = paid | {"pspReference": "7914073381342284::TestMerchant:x", "originalReference": "y"}
    recut |= {"merchantReference": REFERENCE}
    assert text_of(recut) == text_of(paid)
    assert [notice.reference for event in received(paid) for notice in READER.parse(event.raw)] == [None]
    with pytest.raises(WebhookRefusedError, match="cannot be read"):
        received(recut)


@pytest.mark.parametrize("field", ["pspReference", "originalReference", "merchantAccountCode", "eventCode"])
@pytest.mark.parametrize("text", ["a:b", "a\\b"])
def test_C7_only_the_merchants_reference_may_hold_a_separator(field: str, text: str) -> None:
    with pytest.raises(WebhookRefusedError, match="cannot be read"):
        received(signed(**{field: text}))


@pytest.mark.parametrize("reference", ["INV:42", "x\\y", "a\\:b"])
def test_a_foreign_reference_with_a_separator_is_proven_as_it_is_or_escaped(reference: str) -> None:
    as_it_is = signed(merchantReference=reference)
    escaped = text_of(as_it_is | {"merchantReference": reference.replace("\\", "\\\\").replace(":", "\\:")})
    for item in (as_it_is, as_it_is | {"additionalData": {"hmacSignature": signature_of(escaped)}}):
        (event,) = received(item)
        assert READER.parse(event.raw) == [Notice(type="AUTHORISATION")]


@pytest.mark.parametrize("key", [KEY, OTHER_KEY])
def test_C11_either_key_of_a_rotation_proves(key: str) -> None:
    assert received(signed(key), reader=AdyenWebhooks([OTHER_KEY, KEY], "TestMerchant", Mode.TEST))


def test_C10_an_item_of_another_merchant_account_is_refused() -> None:
    with pytest.raises(WebhookRefusedError, match="another merchant account"):
        received(signed(), signed(merchantAccountCode="AnotherMerchant"))


@pytest.mark.parametrize("live", ["true", True])
def test_C10_a_batch_of_the_other_mode_is_refused(live: object) -> None:
    body = batch(signed(), live=live)
    with pytest.raises(WebhookRefusedError, match="other mode"):
        READER.receive({}, body, NOW)
    reader = AdyenWebhooks([KEY], "TestMerchant", Mode.LIVE)
    (event,) = reader.receive({}, body, NOW)
    (notice,) = reader.parse(event.raw)
    assert notice.outcome is not None
    assert notice.outcome.is_live is True
    with pytest.raises(WebhookRefusedError, match="other mode"):
        reader.receive({}, batch(signed()), NOW)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b'{"live": "false", "notificationItems": []}',
        b'{"live": "false", "notificationItems": [{}]}',
        b'{"live": "false", "notificationItems": [{"NotificationRequestItem": null}]}',
        batch(signed(), live=None),
        batch(signed(), live="FALSE"),
        batch(signed()).replace(b'"value": 1130', b'"value": 999, "value": 1130'),
        batch(signed()).replace(b'"eventCode"', b'"eventCode": "REFUND", "eventCode"'),
        batch(signed() | {"reason": "\0"}),
        batch(signed() | {"reason": float("nan")}),
        batch(signed()).replace(b"1130", b"1130.0"),
        batch(signed()).replace(b"1130", b'"1130"'),
        batch(signed(pspReference="")),
        batch(signed(success="TRUE")),
    ],
)
def test_C16_what_cannot_be_read_cannot_be_proven_and_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRefusedError):
        READER.receive({}, body, NOW)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"pspReference": "1"}', batch(signed())])
def test_C16_a_stored_event_that_cannot_be_read_is_a_dead_letter(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - every kind of it ends as a dead letter
        READER.parse(raw)


@pytest.mark.parametrize(
    ("currency", "amount_minor", "at_adyen"),
    [
        ("EUR", 1234, 1234),
        ("JPY", 500, 500),
        ("KWD", 5125, 5125),
        ("CLP", 500, 50_000),  # no decimals in ISO, two at Adyen
        ("ISK", 5, 500),
        ("CVE", 50_000, 500),  # two decimals in ISO, none at Adyen
        ("IDR", 1_000_000, 10_000),
    ],
)
def test_E2_amounts_in_adyens_units_and_back(currency: str, amount_minor: int, at_adyen: int) -> None:
    assert to_adyen_amount(amount_minor, currency) == at_adyen
    assert from_adyen_amount(at_adyen, currency) == amount_minor
    outcome = outcome_of(amount={"value": at_adyen, "currency": currency})
    assert (outcome.kind, outcome.amount_minor, outcome.currency) == (OutcomeKind.APPROVED, amount_minor, currency)


def test_E2_adyen_differs_from_iso_in_four_currencies_only() -> None:
    assert {currency for currency in EXPONENTS if to_adyen_amount(100, currency) != 100} == {"CLP", "CVE", "IDR", "ISK"}


@pytest.mark.parametrize(("currency", "amount_minor"), [("CVE", 50_050), ("IDR", 1)])
def test_E3_what_adyen_has_no_unit_for_is_refused(currency: str, amount_minor: int) -> None:
    with pytest.raises(NotChargeableError, match=currency):
        to_adyen_amount(amount_minor, currency)


@pytest.mark.parametrize(("currency", "value"), [("CLP", 150), ("ISK", 1), ("BGN", 100), ("XXX", 1)])
def test_E3_an_amount_that_iso_has_no_unit_for_decides_nothing(currency: str, value: int) -> None:
    for event_code in ("AUTHORISATION", "OFFER_CLOSED"):
        outcome = outcome_of(eventCode=event_code, amount={"value": value, "currency": currency})
        assert (outcome.kind, outcome.cause, outcome.amount_minor) == (OutcomeKind.UNKNOWN, "unreadable amount", None)
        assert (outcome.decline_code, outcome.is_cancelled) == (None, False)


@pytest.mark.parametrize("keys", [[], [""], [KEY, ""], [KEY[:-1]], ["no hex" * 8], [f" {KEY}"], ["AB" * 15], KEY])
def test_keys_that_prove_nothing_are_not_taken(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="list of HMAC keys"):
        AdyenWebhooks(keys, "TestMerchant", Mode.TEST)


@pytest.mark.parametrize(
    ("event_code", "status", "gross"),
    [
        ("REQUEST_FOR_INFORMATION", "INQUIRY", None),
        ("NOTIFICATION_OF_CHARGEBACK", "NEEDS_RESPONSE", None),
        ("CHARGEBACK", "NEEDS_RESPONSE", -1130),
        ("INFORMATION_SUPPLIED", "UNDER_REVIEW", None),
        ("CHARGEBACK_REVERSED", "WON", 1130),
        ("SECOND_CHARGEBACK", "LOST", -1130),
        ("PREARBITRATION_WON", "WON", None),
        ("PREARBITRATION_LOST", "LOST", None),
    ],
)
def test_D7_an_event_of_a_dispute_says_how_it_stands_and_what_moved(
    event_code: str, status: str, gross: int | None
) -> None:
    (event,) = received(signed(eventCode=event_code, pspReference="DISPUTE1", originalReference="PSP1"))
    (notice,) = READER.parse(event.raw)
    news = notice.dispute
    assert news is not None
    assert (news.provider, news.provider_reference, news.charge_reference) == ("adyen", "DISPUTE1", "PSP1")
    assert (news.status, news.amount_minor, news.currency, news.reference) == (status, 1130, "EUR", REFERENCE)
    assert [(each.name, each.gross_minor) for each in news.movements] == (
        [] if gross is None else [(event_code, gross)]
    )
    assert notice.outcome is None


def test_C2_a_dispute_s_events_are_ordered_by_its_life_and_not_by_a_date_that_nobody_signed() -> None:
    words = []
    for event_code in ("NOTIFICATION_OF_CHARGEBACK", "CHARGEBACK", "CHARGEBACK_REVERSED", "SECOND_CHARGEBACK"):
        (event,) = received(signed(eventCode=event_code, eventDate="2019-01-01T00:00:00+00:00"))
        (notice,) = READER.parse(event.raw)
        assert notice.dispute is not None
        words.append(notice.dispute.word_no)
    assert words == sorted(set(words))


@pytest.mark.parametrize(
    "amount", [{"currency": "EUR"}, {"value": 0, "currency": "EUR"}, {"value": 5, "currency": "XXX"}]
)
def test_C16_a_chargeback_of_nothing_cannot_be_read(amount: dict[str, Any]) -> None:
    (event,) = received(signed(eventCode="CHARGEBACK", amount=amount))
    with pytest.raises(ValueError, match=r"."):
        READER.parse(event.raw)


def test_a_dispute_that_names_none_of_our_references_is_none_of_ours() -> None:
    (event,) = received(signed(eventCode="CHARGEBACK", merchantReference="their-order"))
    assert READER.parse(event.raw) == [Notice(type="CHARGEBACK")]
