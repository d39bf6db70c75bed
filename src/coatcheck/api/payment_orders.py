"""`GET /v1/payment_orders/{payment_order_id}`: one seller's part, by the shop's own id."""

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Response, get

from coatcheck.api.gateway import Gateway
from coatcheck.api.payments import OrderBody, order_body
from coatcheck.api.questions import Parameters, answer, caller_of, name_in_path, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import PAYMENT, order_id_of, print_id
from coatcheck.reporting.read_models import OrderReport, find_order
from coatcheck.shops import Caller
from coatcheck.states import Mode

_NAME_PLACE = 2  # /v1/payment_orders/{payment_order_id}


class PaymentOrderBody(OrderBody, frozen=True, kw_only=True):
    """A payment order with its payment."""

    payment_id: str
    checkout_id: str
    mode: Mode
    created_at: datetime
    decided_at: datetime | None


@get("/v1/payment_orders/{payment_order_id:str}")
async def get_payment_order(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one payment order as it stands now, by the shop's own id."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    name = name_in_path(request, _NAME_PLACE)
    return answer(_body_of(await find_own_order(gateway, caller, name)))


async def find_own_order(gateway: Gateway, caller: Caller, name: str | None) -> OrderReport:
    """Find an order of the caller's own, by the shop's id of it. Raises CoatcheckError NOT_FOUND.

    What is stored is compared with what was asked for: a hash is never trusted alone (hazard B7).
    """
    order_id = None if name is None else order_id_of(caller.shop_id, caller.mode, name)
    report = None if order_id is None else await find_order(gateway.store, order_id)
    asked = (caller.shop_id, caller.mode, name)
    if report is None or (report.shop_id, report.mode, report.order.payment_order_id) != asked:
        named = "of that name" if name is None else name
        raise CoatcheckError(
            ErrorCode.NOT_FOUND, f"No payment order {named} in shop {caller.shop_name}, {caller.mode} mode."
        )
    return report


def _body_of(report: OrderReport) -> PaymentOrderBody:
    return PaymentOrderBody(
        **msgspec.structs.asdict(order_body(report.order)),
        payment_id=print_id(PAYMENT, report.payment_id),
        checkout_id=report.checkout_id,
        mode=report.mode,
        created_at=report.created_at,
        decided_at=report.decided_at,
    )
