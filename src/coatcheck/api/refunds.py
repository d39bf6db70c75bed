"""`/v1/refunds`: money back to a buyer. A refund's key is its ticket: it gives back once, and never expires."""

import asyncio
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.bodies import Asked, take
from coatcheck.api.cursors import parse_cursor, print_cursor
from coatcheck.api.edge import JSON, REPLAYED, encode
from coatcheck.api.gateway import Gateway
from coatcheck.api.payment_list import NextCursor
from coatcheck.api.payment_orders import find_own_order
from coatcheck.api.payments import Amount
from coatcheck.api.questions import NAME_PATTERN, PageParameters, Parameters, answer, caller_of, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import PAYMENT, REFUND, operation_id_of, order_id_of, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.refunds import RefundAnswer, RefundRequest, RefundVerdict, RefundView
from coatcheck.reporting import OrderReport, Place
from coatcheck.states import OperationKind, OperationStatus, RefundStatus
from coatcheck.validation import CreateRefund, amount_in, invalid, parse_refund_request

_POLL_FIRST_S, _POLL_CAP_S = 0.05, 0.5


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
async def create_refund(request: Request[Any, Any, Any]) -> Response[bytes]:
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
    view = await _run(asked, made, order_id)
    is_decided = view.status is not RefundStatus.PENDING
    is_replay = made.verdict is RefundVerdict.EXISTS
    if is_replay:
        gateway.metrics.idempotent_replays.inc()
    return Response(
        encode(refund_body(view)),
        status_code=201 if is_decided else 202,
        media_type=JSON,
        headers=REPLAYED if is_replay and is_decided else None,
    )


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


async def _run(asked: Asked[CreateRefund], made: RefundAnswer, order_id: UUID) -> RefundView:
    """Run a new refund at once, or wait for one that runs; a caller that goes away leaves the work running."""
    gateway = asked.gateway
    running = gateway.executor.start(made.operations) if made.operations else None
    try:
        async with asyncio.timeout(asked.patience_s):
            if running is not None:
                await asyncio.shield(running)
            return await _poll(gateway, made.refund_id, order_id)
    except TimeoutError:
        return await _read(gateway, made.refund_id)


async def _poll(gateway: Gateway, refund_id: UUID, order_id: UUID) -> RefundView:
    """Read until the refund is decided, or its provider has it and decides later, or a person must look."""
    operation_id = operation_id_of(order_id, OperationKind.REFUND, refund_id.hex)
    pause_s = _POLL_FIRST_S
    while True:
        view = await _read(gateway, refund_id)
        if view.status is not RefundStatus.PENDING or gateway.stopping.is_set():
            return view
        standing = (await gateway.operations.stand([operation_id])).get(operation_id)
        if standing is None or standing.operation.status is not OperationStatus.OPEN:
            return await _read(gateway, refund_id)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _POLL_CAP_S)


async def _read(gateway: Gateway, refund_id: UUID) -> RefundView:
    view = await gateway.refunds.read(refund_id)
    if view is None:  # committed a moment ago: only a lost database can take it away
        raise CoatcheckError(ErrorCode.INTERNAL, "The refund's row is gone. Check the database.")
    return view


@get("/v1/refunds/{refund_id:str}")
async def get_refund(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one refund as it stands now."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    printed_id = request.path_params["refund_id"]
    refund_id = parse_id(REFUND, printed_id)
    view = None if refund_id is None else await gateway.refunds.read(refund_id)
    if view is None or (view.shop_id, view.mode) != (caller.shop_id, caller.mode):
        raise CoatcheckError(
            ErrorCode.NOT_FOUND, f"No refund {printed_id} in shop {caller.shop_name}, {caller.mode} mode."
        )
    return answer(refund_body(view))


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
