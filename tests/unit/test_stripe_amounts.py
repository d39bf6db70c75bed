"""What Stripe is asked to charge: amounts in its own units, and the frozen body of a PaymentIntent."""

from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.money import EXPONENTS, MAX_AMOUNT_MINOR
from coatcheck.providers.protocol import ChargeRequest, NotChargeableError
from coatcheck.providers.stripe import StripeProvider, from_stripe_amount, to_stripe_amount

OPERATION_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")


def request(amount_minor: int = 1234, currency: str = "USD", method: str = "pm_1abc") -> ChargeRequest:
    return ChargeRequest(
        operation_id=OPERATION_ID,
        amount_minor=amount_minor,
        currency=currency,
        token=method,
        seller_account="seller-1",
        payment_order_id="order-1",
    )


@pytest.mark.parametrize(
    ("currency", "amount_minor", "at_stripe"),
    [
        ("USD", 1000, 1000),
        ("JPY", 500, 500),
        ("KRW", 1, 1),
        ("ISK", 5, 500),  # no decimals in ISO, two zeros at Stripe
        ("UGX", 5, 500),
        ("MGA", 50000, 500),  # two decimals in ISO, none at Stripe
        ("KWD", 5120, 5120),
        ("HUF", 1045, 1045),  # its exception is about payouts only
        ("TWD", 80045, 80045),
        ("IDR", 999_999_999_999, 999_999_999_999),
        ("USD", 99_999_999, 99_999_999),
        ("KWD", 99_999_990, 99_999_990),
        ("ISK", 999_999, 99_999_900),
    ],
)
def test_E2_E3_amounts_in_stripes_units(currency: str, amount_minor: int, at_stripe: int) -> None:
    assert to_stripe_amount(amount_minor, currency) == at_stripe
    assert from_stripe_amount(at_stripe, currency) == amount_minor


@pytest.mark.parametrize(
    ("currency", "amount_minor", "advice"),
    [
        ("USD", 0, "more than zero"),
        ("USD", -100, "more than zero"),
        ("KWD", 5124, "the last of the three decimals must be 0, not as in 5.124"),
        ("MGA", 50050, "the decimals must be 0, not as in 500.50"),
        ("USD", 100_000_000, "at most 999999.99 USD"),
        ("JPY", 100_000_000, "at most 99999999 JPY"),
        ("KWD", 100_000_000, "at most 99999.990 KWD"),
        ("ISK", 1_000_000, "at most 999999 ISK"),
        ("MGA", 10_000_000_000, "at most 99999999.00 MGA"),
        ("IQD", 5120, "does not charge IQD"),
        ("CLF", 5120, "does not charge CLF"),
        ("BGN", 100, "write EUR"),
        ("usd", 100, "write USD"),
    ],
)
def test_E3_what_stripe_cannot_take_is_refused_with_what_to_change(
    currency: str, amount_minor: int, advice: str
) -> None:
    with pytest.raises(NotChargeableError, match=advice):
        to_stripe_amount(amount_minor, currency)


def test_E3_a_fraction_that_iso_has_no_unit_for_is_not_rounded() -> None:
    with pytest.raises(NotChargeableError, match="150 ISK"):
        from_stripe_amount(150, "ISK")


@given(st.sampled_from(sorted(EXPONENTS)), st.integers(1, MAX_AMOUNT_MINOR))
def test_E2_there_and_back_is_the_same_amount(currency: str, amount_minor: int) -> None:
    try:
        at_stripe = to_stripe_amount(amount_minor, currency)
    except NotChargeableError:
        return
    assert isinstance(at_stripe, int)
    assert from_stripe_amount(at_stripe, currency) == amount_minor


@given(st.sampled_from(sorted(EXPONENTS)), st.integers(1, 99_999_999))
def test_E2_back_and_there_is_the_same_amount(currency: str, at_stripe: int) -> None:
    try:
        amount_minor = from_stripe_amount(at_stripe, currency)
        again = to_stripe_amount(amount_minor, currency)
    except NotChargeableError:
        return
    assert again == at_stripe


def test_every_currency_is_either_charged_at_some_amount_or_refused_by_name() -> None:
    refused = set()
    for currency in EXPONENTS:
        try:
            to_stripe_amount(1000, currency)
        except NotChargeableError:
            refused.add(currency)
    assert refused == {"CLF", "IQD", "LYD", "UYI", "UYW"}


def test_A16_the_body_is_frozen_the_same_every_time() -> None:
    provider = StripeProvider("sk_test_key")
    assert provider.prepare(request()) == provider.prepare(request())
    assert provider.prepare(request()) == (
        b'{"amount":1234,"confirm":false,"currency":"usd","description":"order-1",'
        b'"metadata":{"coatcheck_operation":"op_aerukz4jvpg66ajdivtytk6n54"},'
        b'"payment_method":"pm_1abc","payment_method_types":["card"]}'
    )


def test_the_body_for_a_stand_in_leaves_out_what_it_does_not_know() -> None:
    provider = StripeProvider("sk_test_key", base_url="http://127.0.0.1:1", idempotency_window=timedelta(0))
    assert "description" not in msgspec.json.decode(provider.prepare(request()))
    assert provider.capabilities.idempotency_window == timedelta(0)


@pytest.mark.parametrize(
    ("token", "sent"),
    [
        ("pm_1abc", {"payment_method": "pm_1abc"}),
        ("cus_9/pm_1abc", {"customer": "cus_9", "payment_method": "pm_1abc"}),
        ("tok_visa", {"payment_method_data": {"type": "card", "card": {"token": "tok_visa"}}}),
    ],
)
def test_each_form_of_payment_method(token: str, sent: dict[str, object]) -> None:
    body = msgspec.json.decode(StripeProvider("sk_test_key").prepare(request(method=token)))
    assert {key: body[key] for key in body if key in ("payment_method", "payment_method_data", "customer")} == sent


@pytest.mark.parametrize(
    "token", ["", "pm_", "card_1", "src_1", "approve", "pm_1/../x", "cus_1/", "pm_1\n", "4242424242424242"]
)
def test_other_tokens_are_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(NotChargeableError, match="pm_") as refusal:
        StripeProvider("sk_test_key").prepare(request(method=token))
    assert "4242" not in str(refusal.value)
