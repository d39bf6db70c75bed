"""What a drill's clients take for a mistake of the gateway, and what not."""

import random
from dataclasses import replace
from typing import Any, cast

import pytest

from coatcheck.drill.clients import _Client
from coatcheck.drill.journal import Journal
from coatcheck.drill.plan import Click, Dispute, GivesBack, Manner, amount_text, plan_checkouts
from coatcheck.drill.shop import Answer, Request, Shop


class ScriptedShop:
    """A shop whose gateway says yes to everything; `now`: how the refunds stand when they are read again."""

    def __init__(self, now: list[str]) -> None:
        self.journal = Journal()
        self.refunds: dict[str, str] = {}
        self.now = now

    async def insist(self, _: random.Random, request: Request) -> Answer:
        if request.path == "/v1/payments":
            return Answer(201, self.payment)
        if request.method == "POST":
            refund_id = self.refunds.setdefault(str(request.key), f"rf_{len(self.refunds)}")
            return Answer(201, {"refund_id": refund_id, "status": "SUCCEEDED"})
        return Answer(200, {"status": self.now[int(request.path[-1])]})

    payment: dict[str, Any]


@pytest.mark.parametrize(
    ("now", "complaints"),
    [(["SUCCEEDED", "SUCCEEDED"], 1), (["FAILED", "SUCCEEDED"], 0), (["FAILED", "FAILED"], 0)],
)
async def test_a_refund_may_go_once_the_one_before_has_come_back_and_never_beside_it(
    now: list[str], complaints: int
) -> None:
    drawn = next(plan_checkouts(1, "one", returned_refunds=True))
    order = replace(drawn.orders[0], gives_back=GivesBack.TOO_MUCH, dispute=Dispute.NONE)
    checkout = replace(drawn, manner=Manner.USUAL, click=Click.ONCE, orders=(order,))
    shop = ScriptedShop(now)
    captured = amount_text(order.amount_minor, order.currency)
    shop.payment = {
        "payment_id": "pay_1",
        "payment_orders": [
            {
                "payment_order_id": order.payment_order_id,
                "status": "SUCCESS",
                "captured": captured,
                "provider_reference": "x",
            }
        ],
    }
    await _Client(cast("Shop", shop), checkout).buy()
    assert len(shop.refunds) == 2
    assert shop.journal.complaints == [
        f"{order.payment_order_id} was given back twice: ['rf_0', 'rf_1']" for _ in range(complaints)
    ]
