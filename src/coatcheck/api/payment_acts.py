"""`POST /v1/payments/{payment_id}/capture` and `/cancel`: what a shop does with an authorization.

The keys of both belong to the payment and are the tickets of the operations themselves, so they never expire.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, post

from coatcheck.api.bodies import Asked, answer_post, take
from coatcheck.api.edge import Answer
from coatcheck.api.payments import find_payment, payment_body, read_payment
from coatcheck.api.waiting import run_and_read
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import operation_id_of, order_id_of
from coatcheck.money import format_amount
from coatcheck.payments import Act, ActVerdict, OrderView, PaymentView
from coatcheck.states import OnFailure, OperationKind, OrderStatus
from coatcheck.validation import (
    CancelPayment,
    CapturePart,
    CapturePayment,
    amount_in,
    invalid,
    parse_cancel_request,
    parse_capture_request,
)

_SOON = {"Retry-After": "1"}


class _Wanted(msgspec.Struct, frozen=True):
    """One order to capture: where the request names it, and how much of it; None is all that is left."""

    pointer: str
    order: OrderView
    amount_minor: int | None = None


@post("/v1/payments/{payment_id:str}/capture", status_code=200)
async def capture_payment(request: Request[Any, Any, Any]) -> Answer:
    """Take what was authorized: of all orders or of those listed, in whole or in part. All of them or none."""
    asked = await take(request, parse_capture_request)
    view = await find_payment(asked.gateway, asked.caller, request.path_params["payment_id"])
    if view.on_failure is OnFailure.ALL_OR_NOTHING:
        raise CoatcheckError(
            ErrorCode.CAPTURE_NOT_POSSIBLE,
            "This is an all_or_nothing payment: it captures by itself as soon as every order is authorized.",
        )
    wanted = await _wanted_of(asked, view)
    act = await asked.gateway.acts.capture(
        view.payment_id,
        {_id_of(view, each.order): each.amount_minor for each in wanted},
        is_final=asked.body.final,
        key=asked.key,
    )
    if not all(verdict.is_good for verdict in act.verdicts.values()):
        now = await read_payment(asked.gateway, view.payment_id)
        raise _refused_capture(now, wanted, act.verdicts)
    return await _answer(asked, view.payment_id, act)


@post("/v1/payments/{payment_id:str}/cancel", status_code=200)
async def cancel_payment(request: Request[Any, Any, Any]) -> Answer:
    """Release what is authorized or waits for the buyer, of all orders; refused once one is charged."""
    asked = await take(request, parse_cancel_request)
    view = await find_payment(asked.gateway, asked.caller, request.path_params["payment_id"])
    act = await asked.gateway.acts.cancel(view.payment_id, [_id_of(view, order) for order in view.orders], asked.key)
    named = _orders_by(view, act.verdicts)
    if charged := named(ActVerdict.CHARGED):
        raise CoatcheckError(
            ErrorCode.PAYMENT_ALREADY_CHARGED,
            f"Nothing was cancelled, for this is charged: {charged}. Give the money back with POST /v1/refunds.",
        )
    if busy := named(ActVerdict.BUSY, ActVerdict.EXECUTING):
        raise CoatcheckError(
            ErrorCode.OPERATION_IN_PROGRESS,
            f"Nothing was cancelled, for something is being done with {busy} and its outcome is not known yet. GET "
            "the payment, and send this again with the same key when it is.",
            headers=_SOON,
        )
    return await _answer(asked, view.payment_id, act)


def _id_of(view: PaymentView, order: OrderView) -> UUID:
    return order_id_of(view.shop_id, view.mode, order.payment_order_id)


def _orders_by(view: PaymentView, verdicts: Mapping[UUID, ActVerdict]) -> Callable[..., str]:
    """Make what names the orders that had one of some verdicts."""

    def named(*which: ActVerdict) -> str:
        found = [order.payment_order_id for order in view.orders if verdicts.get(_id_of(view, order)) in which]
        return ", ".join(found)

    return named


async def _wanted_of(asked: Asked[CapturePayment], view: PaymentView) -> list[_Wanted]:
    """Find out which orders are meant, and how much of each.

    Raises CoatcheckError INVALID_REQUEST, CAPTURE_NOT_POSSIBLE.
    """
    problems: list[Problem] = []
    parts = asked.body.payment_orders
    if parts is not None:
        wanted = _listed(parts, view, problems)
    else:
        # Asked again, the orders are no longer authorized: the key knows which they were.
        of_all = await _captured_under(asked, view) or [
            order for order in view.orders if order.status is OrderStatus.AUTHORIZED
        ]
        wanted = [_Wanted("", order) for order in of_all]
    if not asked.body.final:
        unable = {each.order.provider for each in wanted if not _captures_in_parts(asked, each.order.provider)}
        problems += [Problem("/final", f"Leave it out: {name} captures once and releases the rest.") for name in unable]
    if problems:
        raise invalid(problems)
    if not wanted:
        raise _refused_capture(view, [_Wanted("", order) for order in view.orders], {})
    return wanted


def _listed(parts: Sequence[CapturePart], view: PaymentView, problems: list[Problem]) -> list[_Wanted]:
    by_name = {order.payment_order_id: order for order in view.orders}
    wanted = []
    for place, part in enumerate(parts):
        pointer = f"/payment_orders/{place}"
        order = by_name.get(part.payment_order_id)
        if order is None:
            problems.append(Problem(f"{pointer}/payment_order_id", "This payment has no such order; GET shows which."))
            continue
        amount_minor = (
            None if part.amount is None else amount_in(part.amount, order.currency, f"{pointer}/amount", problems)
        )
        wanted.append(_Wanted(pointer, order, amount_minor))
    return wanted


async def _captured_under(asked: Asked[CapturePayment], view: PaymentView) -> list[OrderView]:
    """Find the orders that this key has asked the capture of before."""
    ticket_of = {operation_id_of(_id_of(view, order), OperationKind.CAPTURE, asked.key): order for order in view.orders}
    standing = await asked.gateway.operations.stand(ticket_of)
    return [
        order
        for operation_id, order in ticket_of.items()
        if operation_id in standing and standing[operation_id].operation.payment_id == view.payment_id
    ]


def _captures_in_parts(asked: Asked[CapturePayment], provider: str) -> bool:
    found = asked.gateway.providers.get(provider)
    return found is not None and found.capabilities.several_captures


def _refused_capture(
    view: PaymentView, wanted: Sequence[_Wanted], verdicts: Mapping[UUID, ActVerdict]
) -> CoatcheckError:
    """Say of each order why it cannot be captured; `view` is the payment as it stands now."""
    if ActVerdict.KEY_REUSED in verdicts.values():
        return CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            "This key came with another capture of this payment. Use a new key for a new capture; to ask again, send "
            "the first request unchanged.",
        )
    by_name = {order.payment_order_id: order for order in view.orders}
    problems, headers = [], {}
    for each in wanted:
        order = by_name[each.order.payment_order_id]
        verdict = verdicts.get(_id_of(view, order), ActVerdict.NOT_AUTHORIZED)
        if verdict.is_good or verdict is ActVerdict.HELD_BACK:
            continue
        pointer = f"{each.pointer}/amount" if verdict is ActVerdict.TOO_MUCH and each.pointer else each.pointer
        problems.append(Problem(pointer, f"{order.payment_order_id}: {_why(order, verdict)}"))
        if verdict is ActVerdict.BUSY:
            headers = _SOON
    return CoatcheckError(
        ErrorCode.CAPTURE_NOT_POSSIBLE,
        f"Nothing was captured: {len(problems)} of {len(wanted)} orders cannot be. The first: {problems[0].detail}",
        problems,
        headers=headers,
    )


def _why(order: OrderView, verdict: ActVerdict) -> str:
    left = f"{format_amount(order.authorized_minor - order.captured_minor, order.currency)} {order.currency}"
    if verdict is ActVerdict.BUSY:
        return "a capture or cancel of it is under way. GET the payment, and ask again when its outcome is known."
    if verdict is ActVerdict.TOO_MUCH:
        return f"at most {left} is left to capture."
    if order.status is OrderStatus.SUCCESS:
        return "it is captured already. What is not wanted after all is given back with POST /v1/refunds."
    if order.status.is_final:
        return f"it is {order.status}: there is nothing to capture."
    return f"it is {order.status}: it can be captured once it is AUTHORIZED."


async def _answer(asked: Asked[CapturePayment] | Asked[CancelPayment], payment_id: UUID, act: Act) -> Answer:
    """Run what was committed and answer with the payment."""
    gateway = asked.gateway
    view = await run_and_read(asked, act, payment_id, read_payment, _is_settling)
    is_replay = ActVerdict.EXISTS in act.verdicts.values() and ActVerdict.REQUESTED not in act.verdicts.values()
    body = payment_body(gateway, view)
    return answer_post(gateway, body, is_decided=not view.is_settling, is_replay=is_replay, done=200)


def _is_settling(view: PaymentView) -> bool:
    return view.is_settling
