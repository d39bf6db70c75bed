"""Books with a history: charges, captures, refunds and a settlement, in currencies of no, two and three decimals."""

from datetime import timedelta
from pathlib import Path

from tests.integration.outside import CALLER, checkout
from tests.integration.test_reconciliation import Desk

from coatcheck.shops import create_key
from coatcheck.states import Capture
from coatcheck.store import Store
from coatcheck.validation import Buyer, OrderRequest, PaymentRequest

ODD_SELLER = "-Ann's/Shop=1"


def basket(name: str, *orders: tuple[str, int, str, int], token: str = "tok_approve") -> PaymentRequest:
    """A checkout of orders (seller, amount, currency, commission), in minor units."""
    asked = [OrderRequest(f"{name}-{place}", *order) for place, order in enumerate(orders)]
    return PaymentRequest(name, Buyer("buyer-1", country="GB"), token, tuple(asked))


async def play(store: Store, directory: Path) -> Desk:
    """Play three days, and have the second one settled. The first day is 2026-03-01."""
    desk = Desk(store, directory)
    world = desk.world
    await create_key(store, world.clock, "hats", CALLER.mode)
    await world.pay(checkout("c1", "o1", "o2"))
    await world.pay(basket("c2", ("tokyo", 9_500, "JPY", 95), ("manama", 12_345, "BHD", 1_234)), "k2")
    await world.pay(basket("c3", (ODD_SELLER, 2_001, "EUR", 200), (ODD_SELLER, 777, "JPY", 0)), "k3")
    await world.pay(basket("c4", ("tokyo", 400, "JPY", 4), token="tok_decline_do_not_honor"), "k4")
    world.clock.advance(timedelta(days=1))
    await world.refund("o1", 300)
    await world.refund("c2-1", 5_000, "r2")
    held = await world.pay(checkout("c5", "o5", capture=Capture.MANUAL), "k5")
    await world.capture(held, o5=700)
    await world.pay(checkout("c6", "o6", capture=Capture.MANUAL), "k6")  # a hold that stays
    for place, text in enumerate(desk.close()):
        assert (await desk.take(text, f"{place}.csv")).is_clean
    world.clock.advance(timedelta(days=1))
    await world.pay(checkout("c7", "o7"), "k7")
    assert await world.violations() == {}
    return desk
