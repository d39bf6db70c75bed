"""What the clients of a simulation want: checkouts, and when and how each of them is clicked. Drawn from a seed; pure.

Nothing of the gateway is imported here: the judge compares its rows with this plan.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CURRENCIES: Final = ("USD", "EUR", "JPY", "KWD")
SELLERS: Final = 40
FRAUD_CARD: Final = "tok_decline_do_not_honor.stolen-1"

# Shares of the payment tokens. What the last four answer to a charge is about something else (hazard A15).
TOKENS: Final = {
    "tok_approve": 0.80,
    "tok_decline_insufficient_funds": 0.05,
    "tok_drop": 0.03,
    "tok_error_before": 0.02,
    "tok_error_after": 0.03,
    "tok_html": 0.01,
    "tok_slow": 0.02,
    "tok_pending": 0.02,
    "tok_wrong_amount": 0.005,
    "tok_wrong_currency": 0.005,
    "tok_wrong_reference": 0.005,
    "tok_wrong_mode": 0.005,
}


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """One seller's part, as the client asks for it. Amounts in minor units."""

    payment_order_id: str
    seller_account: str
    amount_minor: int
    commission_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Click:
    """One click: `copies` requests at once with one key. `leaves`: the client hangs up somewhere on the way.

    `is_tampered`: the same key or checkout with another amount, which must be refused.
    """

    wave: int
    key: str
    copies: int = 1
    leaves: bool = False
    is_tampered: bool = False


@dataclass(frozen=True, slots=True)
class PlannedCheckout:
    """One checkout and the clicks it gets, in order."""

    checkout_id: str
    buyer: str
    token: str
    orders: tuple[PlannedOrder, ...]
    clicks: tuple[Click, ...]


def plan_checkouts(seed: int, *, checkouts: int, waves: int) -> list[PlannedCheckout]:
    """Draw what the clients do. The same seed gives the same plan."""
    dice = random.Random(f"plan {seed}")
    return [_checkout(dice, number, waves) for number in range(checkouts)]


def clicks_by_wave(plan: Sequence[PlannedCheckout], waves: int) -> list[list[tuple[PlannedCheckout, Click]]]:
    """Sort the clicks by when they happen."""
    by_wave: list[list[tuple[PlannedCheckout, Click]]] = [[] for _ in range(waves)]
    for checkout in plan:
        for click in checkout.clicks:
            by_wave[click.wave].append((checkout, click))
    return by_wave


def _checkout(dice: random.Random, number: int, waves: int) -> PlannedCheckout:
    name = f"checkout-{number}"
    is_fraud = dice.random() < 0.01
    token = FRAUD_CARD if is_fraud else f"{dice.choices(list(TOKENS), list(TOKENS.values()))[0]}.card-{number}"
    orders = tuple(_order(dice, f"{name}-{place}") for place in range(dice.randint(1, 4)))
    buyer = "thief" if is_fraud else f"buyer-{number % 997}-{number}"
    return PlannedCheckout(name, buyer, token, orders, tuple(_clicks(dice, name, waves)))


def _order(dice: random.Random, payment_order_id: str) -> PlannedOrder:
    amount_minor = dice.randint(1, 500_000)
    return PlannedOrder(
        payment_order_id,
        f"seller-{dice.randrange(SELLERS)}",
        amount_minor,
        dice.randint(0, amount_minor // 5),
        dice.choice(CURRENCIES),
    )


def _clicks(dice: random.Random, name: str, waves: int) -> list[Click]:
    wave, key = dice.randrange(waves), f"key-{name}"
    copies = dice.choices((1, 2, 3), (70, 24, 6))[0]
    clicks = [Click(wave, key, copies, leaves=dice.random() < 0.06)]
    if dice.random() < 0.25:  # comes again: soon or days later, with its key or in a new browser tab
        later = min(waves - 1, wave + dice.choice((0, 1, 1, 2, 8)))
        clicks.append(Click(later, key if dice.random() < 0.6 else f"{key}-again", dice.choice((1, 1, 2))))
    if dice.random() < 0.03:
        later = min(waves - 1, wave + dice.choice((1, 2, 8)))
        clicks.append(Click(later, key if dice.random() < 0.5 else f"{key}-other", is_tampered=True))
    return clicks
