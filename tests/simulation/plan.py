"""What the clients of a simulation want: checkouts, when and how each is clicked, and what is asked of it afterwards.

Drawn from a seed; pure. Nothing of the gateway is imported here: the judge compares its rows with this plan.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

CURRENCIES: Final = ("USD", "EUR", "JPY", "KWD")
SELLERS: Final = 40
FRAUD_CARD: Final = "tok_decline_do_not_honor.stolen-1"

# Shares of the payment tokens. What the last four answer to a charge is about something else (hazard A15).
_TROUBLE: Final = {
    "tok_decline_insufficient_funds": 0.04,
    "tok_drop": 0.03,
    "tok_error_before": 0.02,
    "tok_error_after": 0.03,
    "tok_html": 0.01,
    "tok_slow": 0.02,
    "tok_pending": 0.03,
    "tok_wrong_amount": 0.004,
    "tok_wrong_currency": 0.004,
    "tok_wrong_reference": 0.004,
    "tok_wrong_mode": 0.004,
}


class Manner(StrEnum):
    """How a checkout is paid; what each is called in the gateway's API is the world's business."""

    USUAL = "usual"
    MANUAL = "manual"
    TOGETHER = "together"  # all or nothing


_MANNERS: Final = {Manner.USUAL: 0.72, Manner.MANUAL: 0.14, Manner.TOGETHER: 0.14}
_HOSTED: Final = 0.08  # of each
_LAST: Final = 2  # waves without new checkouts, for what is asked of the last ones
TOKENS: Final = {
    Manner.USUAL: {"tok_approve": 0.75, "tok_refund_pending": 0.03, "tok_refund_fails": 0.02, **_TROUBLE},
    Manner.MANUAL: {
        "tok_approve": 0.7,
        "tok_capture_declined": 0.03,
        "tok_authorization_expires": 0.03,
        "tok_refund_pending": 0.04,
        **_TROUBLE,
    },
    Manner.TOGETHER: {"tok_approve": 0.78, "tok_capture_declined": 0.02, **_TROUBLE},
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


class What(StrEnum):
    """What is asked of a checkout afterwards."""

    CAPTURE = "capture"
    CANCEL = "cancel"
    REFUND = "refund"
    VISIT = "visit"  # of the PSP's page, by the buyer


@dataclass(frozen=True, slots=True)
class Step:
    """One request about a checkout that was clicked before. `amounts_minor` by order; None is all that is left.

    `draw`: what a visitor does at the page, even in [0, 1).
    """

    wave: int
    what: What
    key: str
    amounts_minor: tuple[tuple[str, int | None], ...] = ()
    is_final: bool = True
    draw: float = 0.0


@dataclass(frozen=True, slots=True)
class PlannedCheckout:
    """One checkout, the clicks it gets, and the steps after them. `token` None: the buyer pays on the PSP's page."""

    checkout_id: str
    buyer: str
    token: str | None
    orders: tuple[PlannedOrder, ...]
    clicks: tuple[Click, ...]
    manner: Manner = Manner.USUAL
    steps: tuple[Step, ...] = ()


def plan_checkouts(seed: int, *, checkouts: int, waves: int, has_pages: bool = True) -> list[PlannedCheckout]:
    """Draw what the clients do. The same seed gives the same plan. `has_pages`: some buyers pay on the PSP's page."""
    dice = random.Random(f"plan {seed}")
    return [_checkout(dice, number, waves, hosted=_HOSTED * has_pages) for number in range(checkouts)]


Errand = tuple[PlannedCheckout, Click | Step]


def errands_by_wave(plan: Sequence[PlannedCheckout], waves: int) -> list[list[Errand]]:
    """Sort clicks and steps by when they happen; inside a wave they come in no order."""
    by_wave: list[list[Errand]] = [[] for _ in range(waves)]
    for checkout in plan:
        errands: tuple[Click | Step, ...] = (*checkout.clicks, *checkout.steps)
        for errand in errands:
            by_wave[errand.wave].append((checkout, errand))
    dice = random.Random(len(plan))
    for wave in by_wave:
        dice.shuffle(wave)
    return by_wave


def _checkout(dice: random.Random, number: int, waves: int, *, hosted: float) -> PlannedCheckout:
    name = f"checkout-{number}"
    is_fraud = dice.random() < 0.01
    manner = Manner.USUAL if is_fraud else dice.choices(list(_MANNERS), list(_MANNERS.values()))[0]
    token: str | None = FRAUD_CARD
    if not is_fraud:
        tokens = TOKENS[manner]
        drawn = dice.choices(list(tokens), list(tokens.values()))[0]
        token = None if dice.random() < hosted else f"{drawn}.card-{number}"
    count = dice.choices((1, 2, 3, 4), (15, 55, 20, 10) if manner is Manner.TOGETHER else (70, 18, 8, 4))[0]
    orders = tuple(_order(dice, f"{name}-{place}") for place in range(count))
    buyer = "thief" if is_fraud else f"buyer-{number % 997}-{number}"
    clicks = tuple(_clicks(dice, name, waves))
    steps = () if is_fraud else tuple(_steps(dice, name, manner, orders, clicks[0].wave, is_hosted=token is None))
    at_most = waves - 1
    return PlannedCheckout(
        name, buyer, token, orders, clicks, manner, tuple(_in_time(dice, step, at_most) for step in steps)
    )


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
    wave, key = dice.randrange(max(1, waves - _LAST)), f"key-{name}"
    copies = dice.choices((1, 2, 3), (70, 24, 6))[0]
    clicks = [Click(wave, key, copies, leaves=dice.random() < 0.06)]
    if dice.random() < 0.25:  # comes again: soon or days later, with its key or in a new browser tab
        later = min(waves - 1, wave + dice.choice((0, 1, 1, 2, 8)))
        clicks.append(Click(later, key if dice.random() < 0.6 else f"{key}-again", dice.choice((1, 1, 2))))
    if dice.random() < 0.03:
        later = min(waves - 1, wave + dice.choice((1, 2, 8)))
        clicks.append(Click(later, key if dice.random() < 0.5 else f"{key}-other", is_tampered=True))
    return clicks


def _steps(
    dice: random.Random,
    name: str,
    manner: Manner,
    orders: Sequence[PlannedOrder],
    wave: int,
    *,
    is_hosted: bool,
) -> list[Step]:
    steps = [_visit(dice, name, wave, number) for number in range(dice.choice((0, 1, 1, 2)))] if is_hosted else []
    if manner is Manner.MANUAL:
        steps += _captures(dice, name, orders, wave)
    cancels = {Manner.USUAL: 0.03, Manner.MANUAL: 0.25, Manner.TOGETHER: 0.08}[manner] + 0.15 * is_hosted
    if dice.random() < cancels:  # in the same wave as a capture it is a race
        steps.append(Step(wave + dice.choice((0, 1, 1, 2)), What.CANCEL, f"cancel-{name}"))
    for order in orders:
        steps += _refunds(dice, order, wave) if dice.random() < 1 / 3 else []
    again = [step for step in steps if dice.random() < 0.2]  # the same request comes twice
    return steps + [_later(step, dice.choice((0, 1, 3))) for step in again]


def _visit(dice: random.Random, name: str, wave: int, number: int) -> Step:
    return Step(wave + dice.choice((0, 1, 1, 1, 4)), What.VISIT, f"visit-{name}-{number}", draw=dice.random())


def _captures(dice: random.Random, name: str, orders: Sequence[PlannedOrder], wave: int) -> list[Step]:
    """All, a part, several parts, more than there is, or nothing: then it is left to expire."""

    def step(after: int, key: str, share: int | None, *, is_final: bool = True) -> Step:
        amounts = tuple(
            (order.payment_order_id, None if share is None else max(1, order.amount_minor * share // 100))
            for order in orders
        )
        return Step(wave + after, What.CAPTURE, f"{key}-{name}", amounts, is_final)

    draw = dice.random()
    if draw < 0.4:
        return [step(1, "all", None), *([step(1, "at-once", None)] if draw < 0.1 else [])]
    if draw < 0.55:
        return [step(1, "part", dice.randint(1, 99))]
    if draw < 0.85:
        parts = [step(1, "first", 30, is_final=False), step(dice.choice((1, 2)), "second", 45, is_final=False)]
        return parts + ([step(dice.choice((1, 3)), "last", dice.choice((None, 40)))] if draw < 0.72 else [])
    return [step(1, "too-much", 101)] if draw < 0.9 else []


def _refunds(dice: random.Random, order: PlannedOrder, wave: int) -> list[Step]:
    """All, a part, or several at once that add up to more than was captured."""

    def step(key: str, share: int | None, after: int) -> Step:
        amount = None if share is None else max(1, order.amount_minor * share // 100)
        return Step(
            wave + after,
            What.REFUND,
            f"{key}-{order.payment_order_id}",
            ((order.payment_order_id, amount),),
        )

    draw, after = dice.random(), dice.choice((1, 1, 2, 3))
    if draw < 0.35:
        return [step("refund-all", None, after)]
    if draw < 0.6:
        return [step("refund", dice.randint(1, 100), after)]
    return [step(f"refund-{number}", dice.randint(30, 70), after) for number in range(dice.choice((2, 2, 3, 4)))]


def _later(step: Step, by: int) -> Step:
    return Step(step.wave + by, step.what, step.key, step.amounts_minor, step.is_final, step.draw)


def _in_time(dice: random.Random, step: Step, at_most: int) -> Step:
    """Bring forward what would come after the end."""
    return step if step.wave <= at_most else _later(step, at_most - step.wave - dice.choice((0, 0, 1)) * (at_most > 1))
