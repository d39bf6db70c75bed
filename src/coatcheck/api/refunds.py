"""`/v1/refunds`: money back to a buyer. A refund's key is its ticket: it gives back once, and never expires."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.bodies import answer_post, take
from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.edge import Answer
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payment_orders import find_own_order
from coatcheck.api.payments import Amount
from coatcheck.api.questions import NAME_PATTERN, PageParameters, Parameters, answer, caller_of, own, parameters_of
from coatcheck.api.waiting import run_and_read, still_there
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import PAYMENT, REFUND, operation_id_of, order_id_of, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.refunds import RefundRequest, RefundVerdict, RefundView
from coatcheck.reporting.read_models import OrderReport, Place
from coatcheck.states import OperationKind, RefundStatus
from coatcheck.validation import amount_in, invalid, parse_refund_request


class RefundBody(msgspec.Struct, frozen=True):
    """Money of one payment order that goes back to the buyer. A refund that succeeded may still fail, days later."""

    refund_id: Annotated[str, Meta(examples=["rf_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    payment_order_id: Annotated[str, Meta(examples=["order-7001-a"])]
    payment_id: Annotated[str, Meta(examples=["pay_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    amount: Amount
    commission: Annotated[Amount, Meta(description="What the platform gives of the amount; the rest is the seller's.")]
    currency: Annotated[str, Meta(examples=["EUR"])]
    status: RefundStatus
    reason: str | None
    decline_code: Annotated[str | None, Meta(description="Why the provider refused it.")]
    provider_reference: Annotated[str | None, Meta(description="The provider's own id of the refund.")]
    created_at: datetime
    decided_at: datetime | None


class RefundListBody(msgspec.Struct, frozen=True):
    """An order's refunds, oldest first."""

    refunds: list[RefundBody]
    next_cursor: NextCursor


class RefundListParameters(PageParameters, frozen=True, kw_only=True):
    """Whose refunds."""

    payment_order_id: Annotated[
        str, Meta(min_length=1, max_length=128, pattern=NAME_PATTERN, description="The order whose refunds are meant.")
    ]


def refund_body(view: RefundView) -> RefundBody:
    """Put a refund into the API's words."""
    return RefundBody(
        refund_id=print_id(REFUND, view.refund_id),
        payment_order_id=view.payment_order_id,
        payment_id=print_id(PAYMENT, view.payment_id),
        amount=format_amount(view.amount_minor, view.currency),
        commission=format_amount(view.commission_minor, view.currency),
        currency=view.currency,
        status=view.status,
        reason=view.reason,
        decline_code=view.decline_code,
        provider_reference=view.provider_reference,
        created_at=view.created_at,
        decided_at=view.decided_at,
    )


@post("/v1/refunds", status_code=201)
async def create_refund(request: Request[Any, Any, Any]) -> Answer:
    """Give back an order's money, in whole or in part: never more than was captured, and once for each key."""
    asked = await take(request, parse_refund_request)
    gateway, body = asked.gateway, asked.body
    report = await find_own_order(gateway, asked.caller, body.payment_order_id)
    order_id = order_id_of(asked.caller.shop_id, asked.caller.mode, body.payment_order_id)
    problems: list[Problem] = []
    amount_minor = None if body.amount is None else amount_in(body.amount, report.order.currency, "/amount", problems)
    if problems:
        raise invalid(problems)
    wanted = RefundRequest(order_id=order_id, amount_minor=amount_minor, reason=body.reason)
    made = await gateway.refunds.request(asked.caller, wanted, asked.key)
    if not made.verdict.is_good:
        raise await _refused(gateway, made.verdict, report, order_id)
    operation_id = operation_id_of(order_id, OperationKind.REFUND, made.refund_id.hex)
    view = await run_and_read(asked, made, made.refund_id, _read, _is_working, operation_id=operation_id)
    is_replay = made.verdict is RefundVerdict.EXISTS
    return answer_post(gateway, refund_body(view), is_decided=not _is_working(view), is_replay=is_replay)


async def _refused(gateway: Gateway, verdict: RefundVerdict, report: OrderReport, order_id: UUID) -> CoatcheckError:
    """Put into words why there is no such refund, and how much there could be."""
    name, currency = report.order.payment_order_id, report.order.currency
    if verdict is RefundVerdict.KEY_REUSED:
        return CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            "This key stands for another refund, for ever. Use a new key for a new refund; to ask again, send the "
            "first request unchanged.",
        )
    reserved_minor = sum(
        [
            each.amount_minor
            for each in await gateway.refunds.of_order(order_id)
            if each.status is not RefundStatus.FAILED
        ]
    )
    left = f"{format_amount(max(report.order.captured_minor - reserved_minor, 0), currency)} {currency}"
    why = {
        RefundVerdict.NOT_CAPTURED: f"{name} is {report.order.status} and nothing of it was captured. What is only "
        "authorized is released with POST /v1/payments/{payment_id}/cancel.",
        RefundVerdict.DISPUTED: f"The buyer has disputed {name} at the bank, which may give the money back: a refund "
        "would give it back twice. Answer the dispute first.",
        RefundVerdict.TOO_MUCH: f"That is more than is left of {name}. Refunds that are under way count.",
    }[verdict]
    is_amount = verdict is RefundVerdict.TOO_MUCH
    told = f"{why} Still refundable: {left}."
    return CoatcheckError(
        ErrorCode.REFUND_NOT_POSSIBLE, told, [Problem("/amount" if is_amount else "/payment_order_id", why)]
    )


async def _read(gateway: Gateway, refund_id: UUID) -> RefundView:
    return still_there(await gateway.refunds.read(refund_id), "refund's row is")


def _is_working(view: RefundView) -> bool:
    return view.status is RefundStatus.PENDING


@get("/v1/refunds/{refund_id:str}")
async def get_refund(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one refund as it stands now."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    printed_id = request.path_params["refund_id"]
    refund_id = parse_id(REFUND, printed_id)
    view = None if refund_id is None else await gateway.refunds.read(refund_id)
    return answer(refund_body(own(caller, view, f"refund {printed_id}")))


@get("/v1/refunds")
async def list_refunds(request: Request[Any, Any, Any]) -> Response[bytes]:
    """List an order's refunds, oldest first, page by page."""
    gateway, caller = await caller_of(request)
    asked = parameters_of(request, RefundListParameters)
    await find_own_order(gateway, caller, asked.payment_order_id)
    list_name = ("refunds", caller.shop_id.hex, caller.mode, asked.payment_order_id)
    after = parse_cursor(asked.cursor, *list_name)
    views = await gateway.refunds.of_order(order_id_of(caller.shop_id, caller.mode, asked.payment_order_id))
    left = [view for view in views if after is None or (view.created_at, view.refund_id) > (after.at, after.row_id)]
    shown = left[: asked.limit]
    last = Place(shown[-1].created_at, shown[-1].refund_id) if len(left) > len(shown) else None
    bodies = [refund_body(view) for view in shown]
    return answer(RefundListBody(bodies, None if last is None else print_cursor(last, *list_name)))
