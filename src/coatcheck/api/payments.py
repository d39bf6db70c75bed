"""`/v1/payments`: a checkout in, its outcome out."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.types import Receive, Scope
from msgspec import Meta

from coatcheck.api.bodies import Asked, answer_post, take_in
from coatcheck.api.edge import Answer
from coatcheck.api.gateway import Gateway, gateway_of
from coatcheck.api.questions import Parameters, answer, caller_of, own, parameters_of
from coatcheck.api.returning import ask_about_page
from coatcheck.api.status_page import status_url_of
from coatcheck.api.waiting import poll, run_and_read, still_there
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.failpoints import Failpoint
from coatcheck.ids import PAYMENT, parse_id, print_id
from coatcheck.money import format_amount
from coatcheck.payments import Acceptance, OrderView, PaymentView, Verdict
from coatcheck.providers.outcome import Outcome
from coatcheck.shops import Caller
from coatcheck.states import Capture, Mode, OnFailure, OrderStatus, PaymentStatus
from coatcheck.validation import PaymentRequest, parse_payment_request

CHECKOUTS: Final = "/v1/payments"

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
    authorized: Annotated[Amount, Meta(description="What was reserved on the card, or taken at once.")]
    captured: Annotated[Amount, Meta(description="What was taken of it.")]
    refunded: Annotated[Amount, Meta(description="What has gone back of it.")]
    status: OrderStatus
    decline_code: Annotated[
        str | None, Meta(description="Why the charge failed: the provider's word, or risk_blocked.")
    ]
    provider: str
    provider_reference: Annotated[str | None, Meta(description="The provider's own id of the charge.")]
    expires_at: Annotated[
        datetime | None, Meta(description="Until when the order can be captured, while it is AUTHORIZED.")
    ]


class NextAction(msgspec.Struct, frozen=True):
    """What the buyer has to do: open `redirect_url`, the provider's page, and pay there."""

    type: Literal["redirect"]
    redirect_url: str


class PaymentBody(msgspec.Struct, frozen=True):
    """A payment: one checkout with one or more payment orders."""

    payment_id: Annotated[str, Meta(examples=["pay_dpgs5zdhcp7p3nlvvnjrb7o7cq"])]
    checkout_id: Annotated[str, Meta(examples=["checkout-7001"])]
    mode: Mode
    status: PaymentStatus
    is_payment_done: Annotated[bool, Meta(description="Whether every order is final.")]
    buyer_reference: str | None
    capture: Capture
    on_failure: OnFailure
    payment_orders: list[OrderBody]
    metadata: dict[str, str] | None
    next_action: Annotated[NextAction | None, Meta(description="What the buyer has to do; null when nothing.")]
    status_url: Annotated[
        str,
        Meta(
            description="The buyer's page of this payment, at the gateway's own address. Whoever has it may look.",
            examples=["/pay/pay_dpgs5zdhcp7p3nlvvnjrb7o7cq?token=9f2c1d7e4b8a4f0e9d3c5a6b7e8f9012"],
        ),
    ]
    created_at: datetime


def order_body(order: OrderView) -> OrderBody:
    """Put an order into the API's words: amounts as decimal text."""
    currency = order.currency
    amount = format_amount(order.amount_minor, currency)
    authorized, captured = (
        amount if minor == order.amount_minor else format_amount(minor, currency)
        for minor in (order.authorized_minor, order.captured_minor)
    )
    return OrderBody(
        order.payment_order_id,
        order.seller_account,
        amount,
        currency,
        format_amount(order.commission_minor, currency),
        authorized,
        captured,
        format_amount(order.refunded_minor, currency),
        order.status,
        order.decline_code,
        order.provider,
        order.provider_reference,
        order.expires_at if order.status is OrderStatus.AUTHORIZED else None,
    )


def payment_body(gateway: Gateway, view: PaymentView) -> PaymentBody:
    """Put a payment into the API's words: printed ids, amounts as decimal text."""
    redirect_url = view.redirect_url
    return PaymentBody(
        payment_id=print_id(PAYMENT, view.payment_id),
        checkout_id=view.checkout_id,
        mode=view.mode,
        status=view.status,
        is_payment_done=view.is_done,
        buyer_reference=view.buyer_reference,
        capture=view.capture,
        on_failure=view.on_failure,
        payment_orders=[order_body(order) for order in view.orders],
        metadata=view.metadata,
        next_action=None if redirect_url is None else NextAction("redirect", redirect_url),
        status_url=status_url_of(gateway.page_key, view.shop_id, view.mode, view.payment_id),
        created_at=view.created_at,
    )


@post(CHECKOUTS, status_code=201)
async def create_payment(request: Request[Any, Any, Any]) -> Answer:
    """Take a checkout: check it, commit it, charge every order once, answer with what became of it."""
    return await take_checkout(gateway_of(request), request.scope, request.receive)


async def take_checkout(gateway: Gateway, scope: Scope, receive: Receive) -> Answer:
    """Do what `create_payment` says. Raises CoatcheckError."""
    asked = await take_in(gateway, scope, receive, parse_payment_request)
    acceptance = await gateway.payments.accept(asked.caller, asked.body, asked.key)
    if acceptance.verdict is Verdict.ACCEPTED:
        await gateway.failpoints.reach(Failpoint.ANSWER_BEFORE_RUN)
        payment_id = acceptance.payment_id
        if acceptance.operations:
            view = await run_and_read(asked, acceptance, payment_id, read_payment, _is_working, known=_just_run)
        else:
            view = await read_payment(gateway, payment_id)
        await gateway.failpoints.reach(Failpoint.ANSWER_BEFORE_REPLY)
        return _answer(gateway, view, is_replay=False)
    if acceptance.operations:  # of an adopted payment: the orders that its provider has never had
        gateway.executor.start(acceptance.operations)
    refuse_conflict(acceptance)
    view = await _wait_for_first(gateway, acceptance.payment_id, asked.wait_s)
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


def _just_run(
    asked: Asked[PaymentRequest], acceptance: Acceptance, outcomes: Sequence[Outcome | None]
) -> PaymentView | None:
    """Show a payment of usual charges without a read, where that is all there is to it."""
    if not asked.body.is_usual:
        return None
    view = asked.gateway.payments.view_of(asked.caller, asked.body, acceptance, outcomes)
    return view if view.is_done else None


def _is_working(view: PaymentView) -> bool:
    """Whether the gateway still does what the checkout asked for; a later capture is another request."""
    if view.status is PaymentStatus.EXECUTING:
        return True
    return view.on_failure is OnFailure.ALL_OR_NOTHING and view.is_settling


async def _wait_for_first(gateway: Gateway, payment_id: UUID, wait_s: int | None) -> PaymentView:
    """Answer a repeated request from the first one's payment. Raises REQUEST_IN_PROGRESS while that one runs."""
    view = await read_payment(gateway, payment_id)
    if not _is_working(view):
        return view
    if wait_s is not None:
        try:
            async with asyncio.timeout(wait_s):
                return await poll(gateway, payment_id, read_payment, _is_working)
        except TimeoutError:
            return await read_payment(gateway, payment_id)
    age_s = (gateway.clock.now() - view.created_at).total_seconds()
    if age_s > gateway.settings.response_wait_s:
        return view  # the first answer went out long ago; this payment waits for its provider
    raise CoatcheckError(
        ErrorCode.REQUEST_IN_PROGRESS,
        "Ask again in a second, or send `Prefer: wait=30` to wait for the first one's answer.",
        headers={"Retry-After": "1"},
    )


async def read_payment(gateway: Gateway, payment_id: UUID) -> PaymentView:
    """Read a payment that is known to be there."""
    return still_there(await gateway.payments.read(payment_id), "payment's rows are")


def _answer(gateway: Gateway, view: PaymentView, *, is_replay: bool) -> Answer:
    gateway.metrics.payments[view.status.value].inc()
    is_decided = view.is_done or _is_reserved(view)
    return answer_post(gateway, payment_body(gateway, view), is_decided=is_decided, is_replay=is_replay)


def _is_reserved(view: PaymentView) -> bool:
    """Whether all is done that was asked for, and the shop has the next word: to capture or to cancel."""
    return view.status is PaymentStatus.AUTHORIZED and not view.is_settling


@get("/v1/payments/{payment_id:str}")
async def get_payment(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Show one payment as it stands now; of one that waits at the provider's page, have the provider asked, too."""
    gateway, caller = await caller_of(request)
    parameters_of(request, Parameters)
    view = await find_payment(gateway, caller, request.path_params["payment_id"])
    await ask_about_page(gateway, view)
    return answer(payment_body(gateway, view))


async def find_payment(gateway: Gateway, caller: Caller, printed_id: str) -> PaymentView:
    """Find a payment of the caller's own, by its printed id. Raises CoatcheckError NOT_FOUND (hazard B7)."""
    payment_id = parse_id(PAYMENT, printed_id)
    view = None if payment_id is None else await gateway.payments.read(payment_id)
    return own(caller, view, f"payment {printed_id}")
