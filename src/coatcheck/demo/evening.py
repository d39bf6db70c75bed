"""What a shopping evening asks for: buyers, sellers, checkouts, and who clicks twice. Planned from a seed, no I/O.

No two orders of an evening have the same amount in the same currency. So the PSP's books alone say which order a charge
was for, whatever the gateway calls it.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

DECIMALS: Final[Mapping[str, int]] = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3}

_CURRENCY_WEIGHTS = (45, 30, 15, 10)
_ORDER_COUNTS = (1, 2, 3, 4)
_ORDER_WEIGHTS = (45, 30, 15, 10)
_MIXED_SHARE = 0.15  # of the checkouts, the orders have currencies of their own
_COMMISSION_BPS = (0, 500, 800, 1_000, 1_250, 1_500)
_LANES = 7  # as many evenings in a row have amounts that none of the others has
_CHEAPEST = 60

_FIRST_NAMES = ("Ada", "Boris", "Chiara", "Deniz", "Emeka", "Farah", "Goran", "Hana", "Ines", "Jonas", "Kemal", "Noor")
_LAST_NAMES = ("Abe", "Berg", "Costa", "Dahl", "Eze", "Ferri", "Gupta", "Haddad", "Jensen", "Lopez", "Novak", "Petit")
_COUNTRIES = ("DE", "ES", "FR", "GB", "IT", "JP", "KW", "NL", "SE", "US")
_CARTS = ("autumn-coats", "gloves-and-scarves", "hats", "shoes", "umbrellas")
# Addresses that RFC 5737 keeps for documentation: they are nobody's.
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")


class Manner(StrEnum):
    """How a shopper places the order."""

    ONCE = "once"
    TWICE_AT_ONCE = "twice at the same time"
    AGAIN_SAME_KEY = "again after the answer, same key"
    AGAIN_NEW_KEY = "again after the answer, new key"
    VANISHES = "gone before the answer, and back"


# What share of the checkouts is placed so; the rest is placed once.
_SHARES: Final[Mapping[Manner, float]] = {
    Manner.TWICE_AT_ONCE: 0.20,
    Manner.AGAIN_SAME_KEY: 0.025,
    Manner.AGAIN_NEW_KEY: 0.025,
    Manner.VANISHES: 0.02,
}


@dataclass(frozen=True, slots=True)
class Order:
    """One seller's part of a checkout, as the shopper asked for it; amounts in minor units."""

    payment_order_id: str
    seller_account: str
    amount_minor: int
    commission_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Checkout:
    """One click on "place order". `waits`: its app asks the gateway to wait for the first answer, instead of a 409."""

    checkout_id: str
    key: str
    manner: Manner
    waits: bool
    orders: tuple[Order, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Evening:
    """All that will be asked for. `number` tells evenings on the same data directory apart."""

    number: int
    seed: int
    sellers: tuple[str, ...]
    checkouts: tuple[Checkout, ...]

    @property
    def orders(self) -> Iterator[Order]:
        """All orders of all checkouts."""
        return (order for checkout in self.checkouts for order in checkout.orders)

    def has_lane_of(self, amount_minor: int) -> bool:
        """Whether an amount could be one of this evening's; those of the evenings just before could not."""
        return amount_minor % _LANES == self.number % _LANES


def plan_evening(*, number: int, seed: int, checkouts: int, buyers: int = 300, sellers: int = 60) -> Evening:
    """Plan an evening: the same arguments give the same evening, to the byte."""
    dice = random.Random(seed)  # noqa: S311 - a game that can be played again, not a secret
    names = tuple(f"seller-{place:02}" for place in range(1, sellers + 1))
    commission_bps = {name: dice.choice(_COMMISSION_BPS) for name in names}
    amounts = {currency: _distinct_amounts(dice, number, 4 * checkouts) for currency in DECIMALS}
    people = [_buyer(dice, place) for place in range(1, buyers + 1)]
    manners = _manners(dice, checkouts)
    planned = []
    for place, manner in enumerate(manners, 1):
        name = f"evening-{number}-checkout-{place:05}"
        orders = tuple(
            Order(
                payment_order_id=f"{name}-{letter}",
                seller_account=seller,
                amount_minor=(amount_minor := next(amounts[currency])),
                commission_minor=amount_minor * commission_bps[seller] // 10_000,
                currency=currency,
            )
            for letter, seller, currency in _parts(dice, names)
        )
        buyer = people[(place - 1) % buyers] if place <= buyers else dice.choice(people)
        body = _body(name, buyer, orders, cart=dice.choice(_CARTS))
        planned.append(Checkout(name, f"click-{name}", manner, dice.random() < 0.5, orders, body))  # noqa: PLR2004
    return Evening(number, seed, names, tuple(planned))


def amount_text(amount_minor: int, currency: str) -> str:
    """Write minor units as decimal text, with all decimals of the currency."""
    return f"{Decimal(amount_minor).scaleb(-DECIMALS[currency]):f}"


def minor_units(text: str, currency: str) -> int:
    """Read decimal text into minor units. Raises ValueError when it is no amount of whole minor units."""
    scaled = Decimal(text).scaleb(DECIMALS[currency])
    if not scaled.is_finite() or scaled != scaled.to_integral_value():
        raise ValueError(f"{text!r} is not an amount in {currency}")
    return int(scaled)


def _distinct_amounts(dice: random.Random, number: int, count: int) -> Iterator[int]:
    steps = range(_CHEAPEST, _CHEAPEST + count)
    return iter([step * _LANES + number % _LANES for step in dice.sample(steps, count)])


def _manners(dice: random.Random, checkouts: int) -> list[Manner]:
    manners = [manner for manner, share in _SHARES.items() for _ in range(round(checkouts * share))][:checkouts]
    manners += [Manner.ONCE] * (checkouts - len(manners))
    dice.shuffle(manners)
    return manners


def _parts(dice: random.Random, sellers: Sequence[str]) -> list[tuple[str, str, str]]:
    """Draw the letter, seller and currency of each order of a checkout."""
    count = dice.choices(_ORDER_COUNTS, _ORDER_WEIGHTS)[0]
    currencies = dice.choices(list(DECIMALS), _CURRENCY_WEIGHTS, k=count)
    if dice.random() >= _MIXED_SHARE:
        currencies = [currencies[0]] * count
    return list(zip("abcd", dice.sample(sellers, min(count, len(sellers))), currencies, strict=False))


def _buyer(dice: random.Random, place: int) -> dict[str, str]:
    first, last = dice.choice(_FIRST_NAMES), dice.choice(_LAST_NAMES)
    return {
        "reference": f"buyer-{place:03}",
        "email": f"{first}.{last}.{place}@mail.example".lower(),
        "name": f"{first} {last}",
        "country": dice.choice(_COUNTRIES),
        "ip": f"{_NETWORKS[place % len(_NETWORKS)]}.{place % 254 + 1}",
    }


def _body(name: str, buyer: Mapping[str, str], orders: Sequence[Order], *, cart: str) -> bytes:
    body: dict[str, Any] = {
        "buyer": buyer,
        "checkout_id": name,
        "payment_method": {"token": f"tok_approve.{buyer['reference']}"},
        "payment_orders": [
            {
                "payment_order_id": order.payment_order_id,
                "seller_account": order.seller_account,
                "amount": amount_text(order.amount_minor, order.currency),
                "currency": order.currency,
                "commission": amount_text(order.commission_minor, order.currency),
            }
            for order in orders
        ],
        "metadata": {"cart": cart, "items": str(len(orders))},
    }
    return msgspec.json.encode(body)
