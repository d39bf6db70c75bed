"""The first commit's rows: what a checkout becomes before anybody is asked for money."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from coatcheck import ids
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.operations import Operation, first_kind_of
from coatcheck.providers.protocol import (
    ChargeRequest,
    HostedOrder,
    HostedPage,
    Intent,
    NotChargeableError,
    Origin,
    Provider,
)
from coatcheck.risk import Decision, RiskDecision
from coatcheck.shops import Caller
from coatcheck.states import Capture, OnFailure, OperationKind, OrderStatus
from coatcheck.validation import OrderRequest, PaymentRequest

# How a usual payment is made: (capture, on_failure, return_url). A batch of these alone does not send the columns.
USUAL = (Capture.AUTOMATIC.value, OnFailure.KEEP.value, None)
CREATE_ROUTE = "POST /v1/payments"  # idempotency keys are scoped to the shop, its mode and the route
RISK_BLOCKED = "risk_blocked"

_encode = msgspec.json.Encoder().encode


class Intake(msgspec.Struct, frozen=True):
    """One checkout on its way into a batch: its row, its orders' rows and what it becomes when accepted.

    `manner`: capture, on_failure and return_url.
    """

    payment: tuple[Any, ...]
    manner: tuple[str, str, str | None]
    orders: list[tuple[Any, ...]]
    operations: tuple[Operation, ...]


class Order(msgspec.Struct, frozen=True):
    """One order of a checkout with its tickets and the frozen body of its charge."""

    request: OrderRequest
    order_id: UUID
    operation_id: UUID
    body: bytes

    def row(self, provider: str, *, is_blocked: bool) -> tuple[Any, ...]:
        """Return the columns of accept_payments that start with o_, after the place."""
        request = self.request
        return (
            self.order_id,
            request.payment_order_id,
            request.seller_account,
            request.amount_minor,
            request.commission_minor,
            request.currency,
            provider,
            self.operation_id,
            None if is_blocked else self.body,
        )


def make_intake(
    caller: Caller, request: PaymentRequest, key: str, decision: Decision, provider: Provider, *, at: datetime
) -> Intake:
    """Name every row of a checkout and freeze the bodies of its charges. A blocked payment has no operations.

    Raises CoatcheckError INVALID_REQUEST with every order whose amount, currency or token the provider cannot take.
    """
    shop_id, mode = caller.shop_id, caller.mode
    payment_id = ids.payment_id_of(shop_id, mode, request.checkout_id)
    buyer_id = ids.buyer_id_of(shop_id, mode, request.buyer.reference)
    digest = request.digest()
    is_blocked = decision.decision is RiskDecision.BLOCK
    kind = first_kind_of(request.capture, request.on_failure)
    orders = _orders_of(caller, request, payment_id, kind, provider)
    operations = (
        ()
        if is_blocked
        else tuple(_operation(caller, request, payment_id, order, kind, provider, at) for order in orders)
    )
    payment = (
        shop_id,
        mode.value,
        ids.derive_id("key", shop_id.hex, mode.value, CREATE_ROUTE, key),
        key,
        digest,
        ids.random_id(),
        payment_id,
        request.checkout_id,
        _array_of([order.order_id for order in orders]),
        None if request.metadata is None else _encode(request.metadata).decode(),
        buyer_id,
        request.buyer.reference,
        request.buyer.email,
        request.buyer.name,
        request.buyer.country,
        request.buyer.ip,
        decision.decision.value,
        _encode(decision.signals).decode(),
        _array_of(decision.subjects),
        _accepted_body(request, digest, payment_id, buyer_id, decision, orders, provider=provider.name),
    )
    rows = [order.row(provider.name, is_blocked=is_blocked) for order in orders]
    manner = (request.capture.value, request.on_failure.value, request.return_url)
    return Intake(payment, manner, rows, operations)


def _array_of(values: Sequence[UUID]) -> str:
    """Write an array of a row as text: an array of arrays of different lengths is nothing PostgreSQL takes."""
    return f"{{{','.join([value.hex for value in values])}}}"


def _orders_of(
    caller: Caller, request: PaymentRequest, payment_id: UUID, kind: OperationKind, provider: Provider
) -> list[Order]:
    order_ids = [ids.order_id_of(caller.shop_id, caller.mode, order.payment_order_id) for order in request.orders]
    operation_ids = [ids.operation_id_of(order_id, kind) for order_id in order_ids]
    hosted = _page_of(caller, request, payment_id, operation_ids)
    orders: list[Order] = []
    problems: list[Problem] = []
    for place, (order, order_id, operation_id) in enumerate(zip(request.orders, order_ids, operation_ids, strict=True)):
        asked = ChargeRequest(
            operation_id=operation_id,
            kind=kind,
            amount_minor=order.amount_minor,
            currency=order.currency,
            token=request.token,
            hosted=hosted,
            seller_account=order.seller_account,
            payment_order_id=order.payment_order_id,
            origin=_origin_of(caller, request, order),
        )
        try:
            orders.append(Order(order, order_id, operation_id, provider.prepare(asked)))
        except NotChargeableError as error:
            method = "/payment_method/token" if hosted is None else "/payment_method/hosted"
            pointer = method if error.is_about_token else f"/payment_orders/{place}"
            problems.append(Problem(pointer, f"{provider.name}: {error}"))
    if problems:
        different = list(dict.fromkeys(problems))  # one token's fault is every order's
        raise CoatcheckError(
            ErrorCode.INVALID_REQUEST, f"The provider {provider.name} cannot charge this; see problems.", different
        )
    return orders


def _page_of(
    caller: Caller, request: PaymentRequest, payment_id: UUID, operation_ids: Sequence[UUID]
) -> HostedPage | None:
    if request.return_url is None:
        return None
    orders = tuple(
        HostedOrder(
            operation_id=operation_id,
            amount_minor=order.amount_minor,
            currency=order.currency,
            payment_order_id=order.payment_order_id,
            origin=_origin_of(caller, request, order),
        )
        for order, operation_id in zip(request.orders, operation_ids, strict=True)
    )
    return HostedPage(payment_id=payment_id, return_url=request.return_url, orders=orders)


def _origin_of(caller: Caller, request: PaymentRequest, order: OrderRequest) -> Origin:
    """Say what a PSP keeps with the charge, should our books ever forget it (hazards G16, H6)."""
    return Origin(
        shop_id=caller.shop_id,
        checkout_id=request.checkout_id,
        payment_order_id=order.payment_order_id,
        seller_account=order.seller_account,
        commission_minor=order.commission_minor,
    )


def _operation(  # noqa: PLR0917 - one row's columns, passed on
    caller: Caller,
    request: PaymentRequest,
    payment_id: UUID,
    order: Order,
    kind: OperationKind,
    provider: Provider,
    at: datetime,
) -> Operation:
    return Operation(
        attempt=1,
        first_kind=kind,
        is_joint=request.on_failure is OnFailure.ALL_OR_NOTHING,
        order_id=order.order_id,
        payment_id=payment_id,
        shop_id=caller.shop_id,
        provider=provider.name,
        seller_account=order.request.seller_account,
        commission_minor=order.request.commission_minor,
        intent=Intent(
            operation_id=order.operation_id,
            kind=kind,
            is_hosted=request.return_url is not None,
            amount_minor=order.request.amount_minor,
            currency=order.request.currency,
            mode=caller.mode,
            body=order.body,
            first_sent_at=at,
        ),
    )


def _accepted_body(  # noqa: PLR0917 - one row's columns, passed on
    request: PaymentRequest,
    digest: bytes,
    payment_id: UUID,
    buyer_id: UUID,
    decision: Decision,
    orders: Sequence[Order],
    *,
    provider: str,
) -> str:
    """Everything a rebuild needs of the intent; the buyer only by reference."""
    is_blocked = decision.decision is RiskDecision.BLOCK
    body = {
        "payment_id": payment_id,
        "checkout_id": request.checkout_id,
        "request_digest": digest,
        "buyer_id": buyer_id,
        "metadata": request.metadata,
        "capture": request.capture,
        "on_failure": request.on_failure,
        "return_url": request.return_url,
        "risk": {"decision": decision.decision, "signals": decision.signals, "subjects": decision.subjects},
        "orders": [
            {
                "order_id": order.order_id,
                "payment_order_id": order.request.payment_order_id,
                "seller_account": order.request.seller_account,
                "amount_minor": order.request.amount_minor,
                "commission_minor": order.request.commission_minor,
                "currency": order.request.currency,
                "provider": provider,
                "status": OrderStatus.FAILED if is_blocked else OrderStatus.EXECUTING,
                "decline_code": RISK_BLOCKED if is_blocked else None,
                "operation": None if is_blocked else {"operation_id": order.operation_id, "body": order.body},
            }
            for order in orders
        ],
    }
    return _encode(body).decode()
