"""What is written on Stripe's objects for us, and Stripe's amounts in ISO 4217's minor units.

docs/providers/stripe.md has the tables and their sources. It needs no SDK, so that a gateway starts fast.
"""

from coatcheck.money import CurrencyError, exponent_of, format_amount
from coatcheck.providers.protocol import NotChargeableError

REFERENCE_KEY = "coatcheck_operation"
CAPTURE_KEY = "coatcheck_capture"
"""Which capture took the money: Stripe has no object for a capture, so the PaymentIntent carries its reference."""
PAGE_KEY = "coatcheck_page"
"""On a PaymentIntent that a Checkout Session made: the session is our object there, not the PaymentIntent."""

_ZERO_DECIMALS = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
# Where Stripe counts differently from ISO 4217. HUF and TWD differ in payouts only, so they are not here.
# (a, b): Stripe's amount is a / b of ISO's minor units, and must come out whole.
_RATIOS = {"ISK": (100, 1), "UGX": (100, 1), "MGA": (1, 100)}
_DIGITS = {"IDR": 12}
_DIGITS_OTHERWISE = 8


def to_stripe_amount(amount_minor: int, currency: str) -> int:
    """Turn ISO 4217 minor units into Stripe's. Raises NotChargeableError for what Stripe cannot take exactly."""
    times, over = _ratio_of(currency)
    if amount_minor < 1:
        raise NotChargeableError("the amount must be more than zero")
    amount, rest = divmod(amount_minor * times, over)
    if rest:
        raise NotChargeableError(
            f"Stripe charges {currency} in whole units; the decimals must be 0, "
            f"not as in {format_amount(amount_minor, currency)}"
        )
    step = 10 if currency in _THREE_DECIMALS else 1
    if amount % step:
        raise NotChargeableError(
            f"Stripe charges {currency} in steps of 0.010; the last of the three decimals must be 0, "
            f"not as in {format_amount(amount_minor, currency)}"
        )
    largest = 10 ** _DIGITS.get(currency, _DIGITS_OTHERWISE) - step
    if amount > largest:
        largest_minor = largest // times * over
        raise NotChargeableError(f"Stripe charges at most {format_amount(largest_minor, currency)} {currency} at once")
    return amount


def from_stripe_amount(amount: int, currency: str) -> int:
    """Turn Stripe's amount into ISO 4217 minor units. Raises NotChargeableError for one that has no exact equal."""
    times, over = _ratio_of(currency)
    amount_minor, rest = divmod(amount * over, times)
    if rest:
        raise NotChargeableError(f"Stripe's {amount} {currency} is not a whole number of minor units")
    return amount_minor


def _ratio_of(currency: str) -> tuple[int, int]:
    try:
        iso = exponent_of(currency)
    except CurrencyError as error:
        raise NotChargeableError(str(error)) from error
    if currency in _RATIOS:
        return _RATIOS[currency]
    if iso == 2 or currency in _ZERO_DECIMALS or currency in _THREE_DECIMALS:  # noqa: PLR2004 - most have two
        return 1, 1
    raise NotChargeableError(f"Stripe does not charge {currency}; use another currency")
