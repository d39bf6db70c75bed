"""What the clients of one installation will ask for: drawn from a seed, without end, no I/O.

No two orders of an installation have the same amount in the same currency. So the PSP's books alone say which order a
charge was for, whatever the gateway calls it.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

DECIMALS: Final[Mapping[str, int]] = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3}
_CURRENCY_WEIGHTS = (45, 30, 15, 10)
_ORDER_COUNTS, _ORDER_WEIGHTS = (1, 2, 3, 4), (70, 18, 8, 4)
_MIXED_SHARE = 0.15
SELLERS: Final = 40
_COMMISSION_BPS = (0, 500, 800, 1_250)
_CHEAPEST_MINOR = 101


class Manner(StrEnum):
    """How a checkout is paid; the values are the report's words."""

    USUAL = "pay-in"
    HOSTED = "hosted page"
    MANUAL = "manual capture"
    JOINT = "all or nothing"


class Click(StrEnum):
    """How the client places the order, and asks for everything after it."""

    ONCE = "once"
    TWICE = "twice at the same time"
    VANISHES = "gone before the answer, and back"
    AGAIN = "again after the answer"


class Buyer(StrEnum):
    """What the buyer does on the PSP's page."""

    PAYS = "pays"
    PAYS_TWICE = "pays twice at the same time"
    TRIES_AGAIN = "is declined, then pays with another card"
    CANCELS = "cancels"
    WALKS_AWAY = "never comes"


class Later(StrEnum):
    """What the shop does with an authorization."""

    CAPTURE = "capture all"
    PARTS = "capture in two parts"
    LESS = "capture less"
    CANCEL = "cancel"
    RACE = "capture and cancel at the same time"
    LEAVE = "leave it authorized"


class Dispute(StrEnum):
    """What becomes of a charge that its buyer disputes at the bank."""

    NONE = "nobody disputes"
    WON = "disputed, answered and won"
    LOST = "disputed and lost"
    LEFT = "disputed, and the bank is still at it"


class GivesBack(StrEnum):
    """How much of a captured order is refunded."""

    NOTHING = "nothing"
    ALL = "all"
    PART = "a part"
    HALVES = "two halves at the same time"
    TOO_MUCH = "all, twice at the same time, under two keys"


_MANNERS: Final = {Manner.USUAL: 68, Manner.HOSTED: 8, Manner.MANUAL: 14, Manner.JOINT: 10}
_CLICKS: Final = {Click.ONCE: 60, Click.TWICE: 20, Click.VANISHES: 10, Click.AGAIN: 10}
_BUYERS: Final = {
    Buyer.PAYS: 60,
    Buyer.PAYS_TWICE: 12,
    Buyer.TRIES_AGAIN: 10,
    Buyer.CANCELS: 12,
    Buyer.WALKS_AWAY: 6,
}
_LATERS: Final = {
    Later.CAPTURE: 40,
    Later.PARTS: 15,
    Later.LESS: 12,
    Later.CANCEL: 15,
    Later.RACE: 13,
    Later.LEAVE: 5,
}
_REFUNDS: Final = {
    GivesBack.NOTHING: 86,
    GivesBack.ALL: 5,
    GivesBack.PART: 4,
    GivesBack.HALVES: 2,
    GivesBack.TOO_MUCH: 3,
}
# Cards, by what their token makes the PSP do (docs/simulator.md).
_CARDS: Final = {
    Manner.USUAL: {
        "tok_approve": 80,
        "tok_decline_insufficient_funds": 4,
        "tok_slow": 1,
        "tok_drop": 2,
        "tok_error_before": 2,
        "tok_error_after": 2,
        "tok_html": 2,
        "tok_pending": 2,
        "tok_refund_pending": 3,
        "tok_refund_fails": 2,
    },
    Manner.MANUAL: {
        "tok_approve": 80,
        "tok_decline_do_not_honor": 4,
        "tok_capture_declined": 5,
        "tok_authorization_expires": 4,
        "tok_drop": 4,
        "tok_error_after": 3,
    },
    Manner.JOINT: {"tok_approve": 85, "tok_decline_do_not_honor": 8, "tok_drop": 4, "tok_capture_declined": 3},
}
_DISPUTED_SHARE = 0.012
RETURNED_REFUND: Final = "tok_refund_fails_later"
_RETURNED_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Order:
    """One seller's part of a checkout, as it was asked for; amounts in minor units."""

    payment_order_id: str
    seller_account: str
    amount_minor: int
    commission_minor: int
    currency: str
    gives_back: GivesBack
    dispute: Dispute


@dataclass(frozen=True, slots=True)
class Checkout:
    """One click on "place order", and all that will come of it. `body` is the request, to the byte."""

    checkout_id: str
    manner: Manner
    click: Click
    later: Later
    buyer: Buyer
    card: str
    orders: tuple[Order, ...]
    body: bytes
    dice_seed: int


def plan_checkouts(seed: int, world: str, *, returned_refunds: bool) -> Iterator[Checkout]:
    """Draw checkouts without end: the same arguments give the same ones, to the byte.

    `returned_refunds`: some cards' refunds come back after they succeeded, which only a webhook tells.
    """
    dice = random.Random(f"checkouts {world} {seed}")  # noqa: S311 - a drill that can be run again, not a secret
    serials: Counter[str] = Counter()
    number = 0
    while True:
        number += 1
        yield _checkout(dice, serials, f"{world}-{number:06}", returned_refunds=returned_refunds)


def _checkout(dice: random.Random, serials: Counter[str], name: str, *, returned_refunds: bool) -> Checkout:
    manner = _drawn(dice, _MANNERS)
    card = "" if manner is Manner.HOSTED else _drawn(dice, _CARDS[manner])
    if returned_refunds and manner is Manner.USUAL and dice.random() < _RETURNED_SHARE:
        card = RETURNED_REFUND
    orders = tuple(_orders(dice, serials, name, card))
    return Checkout(
        checkout_id=name,
        manner=manner,
        click=_drawn(dice, _CLICKS),
        later=_drawn(dice, _LATERS),
        buyer=_drawn(dice, _BUYERS),
        card=card,
        orders=orders,
        body=_body(name, manner, card, orders),
        dice_seed=dice.getrandbits(48),
    )


def _orders(dice: random.Random, serials: Counter[str], name: str, card: str) -> Iterator[Order]:
    count = dice.choices(_ORDER_COUNTS, _ORDER_WEIGHTS)[0]
    currencies = dice.choices(list(DECIMALS), _CURRENCY_WEIGHTS, k=count)
    if dice.random() >= _MIXED_SHARE:
        currencies = [currencies[0]] * count
    for letter, currency in zip("abcd", currencies, strict=False):
        serials[currency] += 1
        amount = _CHEAPEST_MINOR + serials[currency]
        gives_back = _drawn(dice, _REFUNDS)
        if card.startswith("tok_refund_") and gives_back is GivesBack.NOTHING:
            gives_back = GivesBack.ALL
        yield Order(
            payment_order_id=f"{name}-{letter}",
            seller_account=seller_named(dice.randrange(SELLERS)),
            amount_minor=amount,
            commission_minor=amount * dice.choice(_COMMISSION_BPS) // 10_000,
            currency=currency,
            gives_back=gives_back,
            dispute=_dispute(dice, gives_back),
        )


def _dispute(dice: random.Random, gives_back: GivesBack) -> Dispute:
    """Draw whether the buyer disputes the charge: not one that he gets back anyway."""
    is_disputed = dice.random() < _DISPUTED_SHARE and gives_back is GivesBack.NOTHING
    return dice.choice((Dispute.WON, Dispute.LOST, Dispute.LEFT)) if is_disputed else Dispute.NONE


def _drawn(dice: random.Random, weights: Mapping[Any, int]) -> Any:
    return dice.choices(list(weights), list(weights.values()))[0]


def seller_named(number: int) -> str:
    """Name a seller."""
    return f"seller-{number:02}"


def amount_text(amount_minor: int, currency: str) -> str:
    """Write minor units as decimal text, with all decimals of the currency."""
    return f"{Decimal(amount_minor).scaleb(-DECIMALS[currency]):f}"


def minor_units(text: str, currency: str) -> int:
    """Read decimal text into minor units. Raises ValueError when it is no amount of whole minor units."""
    scaled = Decimal(text).scaleb(DECIMALS[currency])
    if not scaled.is_finite() or scaled != scaled.to_integral_value():
        raise ValueError(f"{text!r} is not an amount in {currency}")
    return int(scaled)


def _body(name: str, manner: Manner, card: str, orders: tuple[Order, ...]) -> bytes:
    method: dict[str, Any] = {"token": f"{card}.{name}"}
    if manner is Manner.HOSTED:
        method = {"hosted": {"return_url": f"https://shop.example/thanks/{name}"}}
    body: dict[str, Any] = {
        "buyer": {"reference": f"buyer-{name}", "country": "DE"},
        "checkout_id": name,
        "payment_method": method,
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
    }
    if manner is Manner.MANUAL:
        body["capture"] = "manual"
    if manner is Manner.JOINT:
        body["on_failure"] = "all_or_nothing"
    return msgspec.json.encode(body)
