"""Whatever one changes of a signed webhook, it is no longer proven; and nothing that arrives breaks the reader."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.ids import OPERATION, print_id
from coatcheck.money import EXPONENTS
from coatcheck.providers.protocol import NotChargeableError, WebhookReader, WebhookRefusedError
from coatcheck.providers.webhooks_adyen import AdyenWebhooks, from_adyen_amount, to_adyen_amount
from coatcheck.providers.webhooks_simulated import SimulatedWebhooks
from coatcheck.providers.webhooks_stripe import StripeWebhooks
from coatcheck.states import Mode

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECRET = "whsec_1"
KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
REFERENCE = print_id(OPERATION, UUID(int=1))
READERS: list[tuple[WebhookReader, str]] = [
    (SimulatedWebhooks([SECRET], "shop-a", Mode.TEST), "simulator-signature"),
    (StripeWebhooks([SECRET], Mode.TEST), "stripe-signature"),
]
CHARGE = {"id": "ch_1", "status": "succeeded", "amount": 1234, "currency": "EUR"}
BODY = json.dumps(
    {
        "id": "evt_1",
        "type": "charge.succeeded",
        "livemode": False,
        "account": "shop-a",
        "data": {"object": CHARGE | {"reference": REFERENCE, "livemode": False}},
    }
).encode()


def header_of(body: bytes, at: datetime = NOW) -> str:
    time = int(at.timestamp())
    return f"t={time},v1={hmac.new(SECRET.encode(), f'{time}.'.encode() + body, hashlib.sha256).hexdigest()}"


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """One byte replaced, left out or put in, so that the result differs."""
    place = draw(st.integers(0, len(whole) - 1))
    byte = draw(st.binary(min_size=1, max_size=1).filter(lambda byte: byte != whole[place : place + 1]))
    return draw(
        st.sampled_from(
            [
                whole[:place] + byte + whole[place + 1 :],
                whole[:place] + whole[place + 1 :],
                whole[:place] + byte + whole[place:],
            ]
        )
    )


@pytest.mark.parametrize(("reader", "header"), READERS)
@given(body=changed(BODY))
def test_C5_any_change_of_one_byte_of_the_body_is_refused(reader: WebhookReader, header: str, body: bytes) -> None:
    with pytest.raises(WebhookRefusedError, match="no signature in the header"):
        reader.receive({header: header_of(BODY)}, body, NOW)


@pytest.mark.parametrize(("reader", "header"), READERS)
@given(value=changed(header_of(BODY).encode()))
def test_C5_any_change_of_one_byte_of_the_header_is_refused(reader: WebhookReader, header: str, value: bytes) -> None:
    with pytest.raises(WebhookRefusedError):
        reader.receive({header: value.decode("latin-1")}, BODY, NOW)


@pytest.mark.parametrize(("reader", "header"), READERS)
@given(value=st.text(max_size=200), body=st.binary(max_size=200))
def test_C5_whatever_arrives_is_refused_and_breaks_nothing(
    reader: WebhookReader, header: str, value: str, body: bytes
) -> None:
    with pytest.raises(WebhookRefusedError):
        reader.receive({header: value}, body, NOW)


@pytest.mark.parametrize(("reader", "header"), READERS)
@given(body=st.one_of(st.binary(max_size=200), changed(BODY)))
def test_C16_whatever_is_authentic_is_kept_and_reading_it_ends_in_notices_or_a_dead_letter(
    reader: WebhookReader, header: str, body: bytes
) -> None:
    try:
        (event,) = reader.receive({header: header_of(body)}, body, NOW)
    except WebhookRefusedError:
        assert json.loads(body)["id"]  # it was read, and is of another mode or account
        return
    assert event.raw == body
    try:
        reader.parse(event.raw)
    except ValueError:
        return
    assert not event.event_id.startswith("sha256:")


@given(late_s=st.integers(-100_000, 100_000))
def test_C4_C9_the_tolerance_is_the_same_to_both_sides(late_s: int) -> None:
    reader, header = READERS[0]
    headers = {header: header_of(BODY)}
    at = NOW + timedelta(seconds=late_s)
    if abs(late_s) <= 300:
        assert reader.receive(headers, BODY, at)
    else:
        with pytest.raises(WebhookRefusedError):
            reader.receive(headers, BODY, at)


words = st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text)
items = st.fixed_dictionaries(
    {
        "pspReference": words,
        "merchantAccountCode": st.just("M"),
        "merchantReference": st.one_of(words, st.just(REFERENCE)),
        "amount": st.fixed_dictionaries({"value": st.integers(0, 10**9), "currency": st.sampled_from(["EUR", "CLP"])}),
        "eventCode": st.sampled_from(["AUTHORISATION", "CAPTURE", "REFUND"]),
        "success": st.sampled_from(["true", "false"]),
    }
)


def signed(item: dict[str, Any]) -> dict[str, Any]:
    amount = item["amount"]
    fields = [item["pspReference"], "", "M", item["merchantReference"], amount["value"], amount["currency"]]
    text = ":".join(map(str, [*fields, item["eventCode"], item["success"]]))
    digest = hmac.new(bytes.fromhex(KEY), text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
    return item | {"additionalData": {"hmacSignature": base64.b64encode(digest).decode()}}


def taken(*given_items: dict[str, Any]) -> list[str] | None:
    reader = AdyenWebhooks([KEY], "M", Mode.TEST)
    body = {"live": "false", "notificationItems": [{"NotificationRequestItem": item} for item in given_items]}
    try:
        return [event.event_id for event in reader.receive({}, json.dumps(body).encode(), NOW)]
    except WebhookRefusedError:
        return None


@given(item=items, other=items)
def test_C8_a_signature_proves_no_other_item(item: dict[str, Any], other: dict[str, Any]) -> None:
    proof = signed(item)["additionalData"]
    names = ("pspReference", "merchantReference", "amount", "eventCode", "success")
    if taken(other | {"additionalData": proof}) is not None:
        assert all(item[name] == other[name] for name in names)


@given(item=items)
def test_C7_an_item_is_proven_unless_a_separator_stands_where_none_may(item: dict[str, Any]) -> None:
    is_clear = not set(item["pspReference"]) & set(":\\")
    expected = [f"{item['pspReference']}:{item['eventCode']}:{item['success']}"] if is_clear else None
    assert taken(signed(item)) == expected


@given(st.sampled_from(sorted(EXPONENTS)), st.integers(1, 10**12))
def test_E2_an_amount_that_adyen_takes_comes_back_unchanged(currency: str, amount_minor: int) -> None:
    try:
        at_adyen = to_adyen_amount(amount_minor, currency)
    except NotChargeableError:
        assert amount_minor % 100
        return
    assert from_adyen_amount(at_adyen, currency) == amount_minor
