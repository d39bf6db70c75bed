"""`/v1/payments`: a checkout in, its outcome out."""

import asyncio
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from msgspec import Meta

from coatcheck.api.edge import (
    JSON,
    REPLAYED,
    encode,
    headers_of,
    read_body,
    refuse_card_numbers,
    require_json,
    wait_of,
)
from coatcheck.api.gateway import Gateway, gateway_of
from coatcheck.api.questions import Parameters, answer, caller_of, parameters_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.ids import PAYMENT, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.payments import Acceptance, PaymentView, Verdict
from coatcheck.shops import Caller
from coatcheck.states import Mode, OrderStatus, PaymentStatus
from coatcheck.validation import PaymentRequest, parse_idempotency_key, parse_payment_request

_POLL_FIRST_S = 0.05
_POLL_CAP_S = 0.5


Amount = Annotated[
    str,
    Meta(
        description="Decimal text with all the decimals of the currency; never a number.",
        examples=["129.95"],
        extra_json_schema={"pattern": r"^-?[0-9]+(\.[0-9]+)?$"},
    ),
]


class OrderBody(msgspec.Struct, frozen=True):
    """One seller's part of a payment."""

    payment_order_id: Annotated[str, Meta(examples=["order-7001-a"])]
    seller_account: Annotated[str, Meta(examples=["seller-42"])]
    amount: Amount
    currency: Annotated[str, Meta(examples=["EUR"])]
    commission: Amount
    status: OrderStatus
    decline_code: Annotated[
        str | None, Meta(description="Why the charge failed: the provider's word, or risk_blocked.")
    ]
    provider: str
    provider_reference: Annotated[str | None, Meta(description="The provider's own id of the charge.")]


class PaymentBody(msgspec.Struct, frozen=True):
    """A payment: one checkout with one or more payment orders."""

    payment_id: Annotated[str, Meta(examples=["pay_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    checkout_id: Annotated[str, Meta(examples=["checkout-7001"])]
    mode: Mode
    status: PaymentStatus
    is_payment_done: Annotated[bool, Meta(description="Whether every order is final.")]
    buyer_reference: str | None
    payment_orders: list[OrderBody]
    metadata: dict[str, str] | None
    next_action: Annotated[None, Meta(description="What the buyer has to do; nothing yet.")]
    created_at: datetime


def payment_body(view: PaymentView) -> PaymentBody:
    """Put a payment into the API's words: printed ids, amounts as decimal text."""
    return PaymentBody(
        payment_id=print_id(PAYMENT, view.payment_id),
        checkout_id=view.checkout_id,
        mode=view.mode,
        status=view.status,
        is_payment_done=view.is_done,
        buyer_reference=view.buyer_reference,
        payment_orders=[
            OrderBody(
                order.payment_order_id,
                order.seller_account,
                format_amount(order.amount_minor, order.currency),
                order.currency,
                format_amount(order.commission_minor, order.currency),
                order.status,
                order.decline_code,
                order.provider,
                order.provider_reference,
            )
            for order in view.orders
        ],
        metadata=view.metadata,
        next_action=None,
        created_at=view.created_at,
    )


@post("/v1/payments", status_code=201)
async def create_payment(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take a checkout: check it, commit it, charge every order once, answer with what became of it."""
    gateway = gateway_of(request)
    authorization, content_type, header_key, prefer = headers_of(
        request.scope, b"authorization", b"content-type", b"idempotency-key", b"prefer"
    )
    caller = await gateway.keys.authenticate(authorization)
    settings = gateway.settings
    require_json(content_type)
    refuse_card_numbers(request.scope)
    raw = await read_body(request.receive, limit_bytes=settings.body_limit_bytes, deadline_s=settings.body_deadline_s)
    asked = parse_payment_request(raw, body_depth=settings.body_depth, orders_limit=settings.orders_limit)
    key = parse_idempotency_key(header_key, asked.idempotency_key)
    acceptance = await gateway.payments.accept(caller, asked, key)
    wait_s = wait_of(prefer)
    if acceptance.verdict is Verdict.ACCEPTED:
        view = await _run(gateway, asked, caller, acceptance, settings.response_wait_s if wait_s is None else wait_s)
        return _answer(gateway, view, is_replay=False)
    refuse_conflict(acceptance)
    view = await _wait_for_first(gateway, acceptance.payment_id, wait_s)
    gateway.metrics.idempotent_replays.inc()
    return _answer(gateway, view, is_replay=True)


def refuse_conflict(acceptance: Acceptance) -> None:
    """Raise the problem of a request whose key, checkout or order stands for something else."""
    if acceptance.verdict is Verdict.KEY_REUSED:
        raise CoatcheckError(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            "This key came with another request within the last 24 hours. Use a new key for a new request; to ask "
            "again, send the first request unchanged.",
        )
    if acceptance.verdict is Verdict.CHECKOUT_CONFLICT:
        raise CoatcheckError(
            ErrorCode.CHECKOUT_CONFLICT,
            f"Payment {print_id(PAYMENT, acceptance.payment_id)} has this checkout_id and other content. GET it to see "
            "what was paid; a different checkout needs a checkout_id of its own.",
        )
    if acceptance.verdict is Verdict.ORDER_CONFLICT:
        raise CoatcheckError(
            ErrorCode.PAYMENT_ORDER_CONFLICT,
            f"payment_order_id {acceptance.detail!r} belongs to another payment. It is unique for ever in your shop: "
            "give this order an id of its own.",
        )


async def _run(
    gateway: Gateway, asked: PaymentRequest, caller: Caller, acceptance: Acceptance, wait_s: int
) -> PaymentView:
    """Run a new payment's operations at once and answer with what is known when they end or the wait does.

    The work is a task of its own: a caller that goes away leaves it running.
    """
    if not acceptance.operations:
        return await _read(gateway, acceptance.payment_id)
    running = gateway.executor.start(acceptance.operations)
    try:
        async with asyncio.timeout(wait_s):
            outcomes = await asyncio.shield(running)
            view = gateway.payments.view_of(caller, asked, acceptance, outcomes)
            return view if view.is_done else await _poll(gateway, acceptance.payment_id)
    except TimeoutError:
        return await _read(gateway, acceptance.payment_id)


async def _wait_for_first(gateway: Gateway, payment_id: UUID, wait_s: int | None) -> PaymentView:
    """Answer a repeated request from the first one's payment. Raises REQUEST_IN_PROGRESS while that one runs."""
    view = await _read(gateway, payment_id)
    if view.status is not PaymentStatus.EXECUTING:
        return view
    if wait_s is not None:
        try:
            async with asyncio.timeout(wait_s):
                return await _poll(gateway, payment_id)
        except TimeoutError:
            return await _read(gateway, payment_id)
    age_s = (gateway.clock.now() - view.created_at).total_seconds()
    if age_s > gateway.settings.response_wait_s:
        return view  # the first answer went out long ago; this payment waits for its provider
    raise CoatcheckError(
        ErrorCode.REQUEST_IN_PROGRESS,
        "Ask again in a second, or send `Prefer: wait=30` to wait for the first one's answer.",
        headers={"Retry-After": "1"},
    )


async def _poll(gateway: Gateway, payment_id: UUID) -> PaymentView:
    """Read until nobody here works on the payment: it is done, or its provider decides later (PENDING).

    Another process may finish it, so the row is the truth.
    """
    pause_s = _POLL_FIRST_S
    while True:
        await asyncio.sleep(pause_s)
        view = await _read(gateway, payment_id)
        if view.status is not PaymentStatus.EXECUTING or gateway.stopping.is_set():
            return view
        pause_s = min(pause_s * 2, _POLL_CAP_S)


async def _read(gateway: Gateway, payment_id: UUID) -> PaymentView:
    view = await gateway.payments.read(payment_id)
    if view is None:  # committed a moment ago: only a lost database can take it away
        raise CoatcheckError(ErrorCode.INTERNAL, "The payment's rows are gone. Check the database.")
    return view


def _answer(gateway: Gateway, view: PaymentView, *, is_replay: bool) -> Response[bytes]:
    gateway.metrics.payments[view.status.value].inc()
    return Response(
        encode(payment_body(view)),
        status_code=201 if view.is_done else 202,
        media_type=JSON,
        headers=REPLAYED if is_replay and view.is_done else None,
    )


@get("/v1/payments/{payment_id:str}")
async def get_payment(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one payment as it stands now."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    payment_id = request.path_params["payment_id"]
    wanted = parse_id(PAYMENT, payment_id)
    view = None if wanted is None else await gateway.payments.read(wanted)
    if view is None or (view.shop_id, view.mode) != (caller.shop_id, caller.mode):
        raise CoatcheckError(
            ErrorCode.NOT_FOUND, f"No payment {payment_id} in shop {caller.shop_name}, {caller.mode} mode."
        )
    return answer(payment_body(view))
