"""Payments: a checkout becomes rows (the intent), and a PSP's decision becomes status, ledger and events.

Two commits per payment on the hot path. `accept` is the first: payment, orders and operations leased to this process.
`apply` is the second: outcome, status, transfers, balances and events, all or nothing. No PSP is called here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from coatcheck import ids
from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.events import EventKind
from coatcheck.ledger import AccountBook, Transfer, charge_accounts, charge_transfers
from coatcheck.metrics import Metrics
from coatcheck.operations import Operation
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Charge, ChargeRequest, NotChargeableError, Provider
from coatcheck.risk import Assessor, Decision, RiskDecision
from coatcheck.shops import Caller
from coatcheck.states import (
    Mode,
    OperationKind,
    OperationStatus,
    OrderStatus,
    PaymentStatus,
    payment_status_of,
)
from coatcheck.store import Batcher, Store
from coatcheck.validation import OrderRequest, PaymentRequest

CREATE_ROUTE = "POST /v1/payments"  # idempotency keys are scoped to the shop, its mode and the route
RISK_BLOCKED = "risk_blocked"

_encode = msgspec.json.Encoder().encode


class Verdict(StrEnum):
    """What the primary keys said of a request: its rows are its own, or whose they are. See accept_payments.sql."""

    ACCEPTED = "accepted"
    SAME_KEY = "same_key"
    KEY_REUSED = "key_reused"
    SAME_CHECKOUT = "same_checkout"
    CHECKOUT_CONFLICT = "checkout_conflict"
    ORDER_CONFLICT = "order_conflict"


class Acceptance(msgspec.Struct, frozen=True):
    """The answer to a checkout that came in. `operations` are leased to this process and still to be run."""

    verdict: Verdict
    payment_id: UUID
    accepted_at: datetime
    operations: tuple[Operation, ...] = ()
    detail: str | None = None


class _Applied(msgspec.Struct, frozen=True):
    """A decision for one operation, to be booked under the operation's lease."""

    operation: Operation
    outcome: Outcome


class OrderView(msgspec.Struct, frozen=True):
    """One seller's part of a payment, as it stands. Amounts in minor units."""

    payment_order_id: str
    seller_account: str
    amount_minor: int
    commission_minor: int
    currency: str
    provider: str
    status: OrderStatus
    decline_code: str | None = None
    provider_reference: str | None = None


class PaymentView(msgspec.Struct, frozen=True):
    """A payment as it stands."""

    payment_id: UUID
    shop_id: UUID
    mode: Mode
    checkout_id: str
    buyer_reference: str | None
    metadata: dict[str, str] | None
    created_at: datetime
    orders: tuple[OrderView, ...]

    @property
    def status(self) -> PaymentStatus:
        """Where the whole checkout stands."""
        return payment_status_of([order.status for order in self.orders])

    @property
    def is_done(self) -> bool:
        """Whether every order is final."""
        return all(order.status.is_final for order in self.orders)


class _Intake(msgspec.Struct, frozen=True):
    """One checkout on its way into a batch: its row, its orders' rows and what it becomes when accepted."""

    payment: tuple[Any, ...]
    orders: list[tuple[Any, ...]]
    operations: tuple[Operation, ...]
    payment_id: UUID


_Answer = tuple[Verdict, UUID, datetime, str | None]


class Payments:
    """Accepts checkouts and books what became of their orders."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        providers: Mapping[str, Provider],
        provider: str,
        assessor: Assessor,
        holder: UUID,
        lease: timedelta,
        key_life: timedelta,
        batch_size: int,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._clock = clock
        self._providers = providers
        self._provider = provider
        self._assessor = assessor
        self._holder = holder
        self._lease = lease
        self._key_life = key_life
        self._book = AccountBook(store, clock)
        lanes = 1 if batch_size > 1 else 8
        self._metrics = metrics
        self._accept = Batcher(
            self._accept_batch, size=batch_size, lanes=lanes, observe=metrics.batch_observer("accept")
        )
        self._apply = Batcher(self._apply_batch, size=batch_size, lanes=lanes, observe=metrics.batch_observer("apply"))
        self._read = Batcher(self._read_batch, size=max(batch_size, 1), lanes=2)

    async def accept(self, caller: Caller, request: PaymentRequest, key: str) -> Acceptance:
        """Commit the intent of a checkout. Posts nothing; calls nobody.

        Idempotent on the key (24 hours), the checkout_id and every payment_order_id (for ever), decided by the primary
        keys. Raises CoatcheckError INVALID_REQUEST when the provider cannot take an amount, currency or token.
        """
        decision = await self._assessor.assess(caller.shop_id, caller.mode, request)
        await self._open_accounts(caller, request)
        self._metrics.risk_decisions[decision.decision.value].inc()
        intake = self._intake(caller, request, key, decision)
        verdict, payment_id, accepted_at, detail = await self._accept.submit(intake)
        operations = intake.operations if verdict is Verdict.ACCEPTED else ()
        return Acceptance(verdict, payment_id, accepted_at, operations, detail)

    async def apply(self, operation: Operation, outcome: Outcome) -> bool:
        """Book a PSP's decision. Posts the charge's transfers; idempotent on the operation and its attempt.

        False when another holder has taken the operation over: its answer counts, not this one.
        Locks: the lease, the operation, the order, then the accounts in id order.
        """
        applied = await self._apply.submit(_Applied(operation, outcome))
        if applied:
            self._metrics.orders[_ORDER_STATUS[outcome.kind].value, operation.charge.currency].inc()
        return applied

    async def read(self, payment_id: UUID) -> PaymentView | None:
        """Show a payment as it stands; None when there is no such payment."""
        return await self._read.submit(payment_id)

    def view_of(
        self, caller: Caller, request: PaymentRequest, acceptance: Acceptance, outcomes: Sequence[Outcome | None]
    ) -> PaymentView:
        """Show a payment this process has just run, from what it committed: the same view a read would give."""
        return PaymentView(
            acceptance.payment_id,
            caller.shop_id,
            caller.mode,
            request.checkout_id,
            request.buyer.reference,
            request.metadata,
            acceptance.accepted_at,
            tuple(
                [
                    OrderView(
                        order.payment_order_id,
                        order.seller_account,
                        order.amount_minor,
                        order.commission_minor,
                        order.currency,
                        self._provider,
                        OrderStatus.EXECUTING if outcome is None else _ORDER_STATUS[outcome.kind],
                        None if outcome is None else outcome.decline_code,
                        None if outcome is None else outcome.provider_reference,
                    )
                    for order, outcome in zip(request.orders, outcomes, strict=True)
                ]
            ),
        )

    async def _read_batch(self, payment_ids: Sequence[UUID]) -> list[PaymentView | None]:
        rows = await self._store.pool.fetch(self._store.queries["payment_read"], list(set(payment_ids)))
        found = {payment_id: list(group) for payment_id, group in groupby(rows, key=itemgetter("payment_id"))}
        return [_view(found[payment_id]) if payment_id in found else None for payment_id in payment_ids]

    async def _open_accounts(self, caller: Caller, request: PaymentRequest) -> None:
        wanted = [
            (name, order.currency)
            for order in request.orders
            for name in charge_accounts(self._provider, order.seller_account)
        ]
        await self._book.ensure(caller.shop_id, caller.mode, wanted)

    def _intake(self, caller: Caller, request: PaymentRequest, key: str, decision: Decision) -> _Intake:
        shop_id, mode = caller.shop_id, caller.mode
        at = self._clock.now()
        payment_id = ids.payment_id_of(shop_id, mode, request.checkout_id)
        buyer_id = ids.buyer_id_of(shop_id, mode, request.buyer.reference)
        is_blocked = decision.decision is RiskDecision.BLOCK
        orders = [self._order(caller, place, order, request.token) for place, order in enumerate(request.orders)]
        operations = () if is_blocked else tuple(self._operation(caller, payment_id, at, order) for order in orders)
        metadata = None if request.metadata is None else _encode(request.metadata).decode()
        signals = _encode(decision.signals).decode()
        payment = (
            shop_id,
            mode.value,
            ids.derive_id("key", shop_id.hex, mode.value, CREATE_ROUTE, key),
            key,
            request.digest(),
            ids.random_id(),
            payment_id,
            request.checkout_id,
            f"{{{','.join([order.order_id.hex for order in orders])}}}",
            metadata,
            buyer_id,
            request.buyer.reference,
            request.buyer.email,
            request.buyer.name,
            request.buyer.country,
            request.buyer.ip,
            decision.decision.value,
            signals,
            f"{{{','.join([subject.hex for subject in decision.subjects])}}}",
            _accepted_body(request, payment_id, buyer_id, decision, orders, provider=self._provider),
        )
        rows = [order.row(self._provider, is_blocked=is_blocked) for order in orders]
        return _Intake(payment, rows, operations, payment_id)

    def _order(self, caller: Caller, place: int, order: OrderRequest, token: str) -> "_Order":
        order_id = ids.order_id_of(caller.shop_id, caller.mode, order.payment_order_id)
        operation_id = ids.operation_id_of(order_id, OperationKind.CHARGE, 1)
        try:
            body = self._providers[self._provider].prepare(
                ChargeRequest(
                    operation_id=operation_id,
                    amount_minor=order.amount_minor,
                    currency=order.currency,
                    token=token,
                    seller_account=order.seller_account,
                    payment_order_id=order.payment_order_id,
                )
            )
        except NotChargeableError as error:
            raise CoatcheckError(
                ErrorCode.INVALID_REQUEST,
                f"{self._provider} cannot take payment order {order.payment_order_id}: {error}",
                [Problem(f"/payment_orders/{place}", str(error))],
            ) from error
        return _Order(order, order_id, operation_id, body)

    def _operation(self, caller: Caller, payment_id: UUID, at: datetime, order: "_Order") -> Operation:
        return Operation(
            attempt=1,
            order_id=order.order_id,
            payment_id=payment_id,
            shop_id=caller.shop_id,
            provider=self._provider,
            seller_account=order.request.seller_account,
            commission_minor=order.request.commission_minor,
            charge=Charge(
                operation_id=order.operation_id,
                amount_minor=order.request.amount_minor,
                currency=order.request.currency,
                mode=caller.mode,
                body=order.body,
                first_sent_at=at,
            ),
        )

    async def _accept_batch(self, items: Sequence[_Intake]) -> list[_Answer]:
        at = self._clock.now()
        event_ids = ids.time_ordered_ids(at, len(items))
        payments = columns_of([item.payment for item in items])
        orders = columns_of([(place, *row) for place, item in enumerate(items, 1) for row in item.orders])
        # The event ids stand before the event bodies, the last column.
        arguments = (at, at - self._key_life, self._holder, at + self._lease, *payments[:-1], event_ids, payments[-1])
        rows = await self._store.pool.fetch(self._store.queries["payment_accept"], *arguments, *orders)
        answers = {place: (Verdict(verdict), payment_id, at, detail) for place, verdict, payment_id, detail in rows}
        return [answers[place] for place in range(1, len(items) + 1)]

    async def _apply_batch(self, items: Sequence[_Applied]) -> list[bool]:
        at = self._clock.now()
        event_ids = ids.time_ordered_ids(at, len(items))
        transfer_ids = ids.time_ordered_ids(at, 2 * len(items))
        outcomes: list[tuple[Any, ...]] = []
        transfers: list[tuple[Any, ...]] = []
        for place, (item, event_id) in enumerate(zip(items, event_ids, strict=True), 1):
            legs = _transfers_of(item, transfer_ids[2 * place - 2 : 2 * place])
            outcomes.append(_outcome_row(item, event_id, legs))
            transfers.extend([(place, *_transfer_row(leg)) for leg in legs])
        columns = (*columns_of(outcomes), *columns_of(transfers, width=8))
        rows = await self._store.pool.fetch(self._store.queries["payment_apply_outcomes"], at, *columns)
        applied = {place for place, outcome in rows if outcome == "applied"}
        return [place in applied for place in range(1, len(items) + 1)]


class _Order(msgspec.Struct, frozen=True):
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


_ORDER_STATUS = {OutcomeKind.APPROVED: OrderStatus.SUCCESS, OutcomeKind.DECLINED: OrderStatus.FAILED}
_OPERATION_STATUS = {OutcomeKind.APPROVED: OperationStatus.APPROVED, OutcomeKind.DECLINED: OperationStatus.DECLINED}
_EVENT_KIND = {OutcomeKind.APPROVED: EventKind.ORDER_SUCCEEDED, OutcomeKind.DECLINED: EventKind.ORDER_FAILED}


def columns_of(rows: Sequence[tuple[Any, ...]], width: int = 0) -> list[list[Any]]:
    """Turn rows into the arrays a set-based statement takes; `width` empty ones when there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _accepted_body(
    request: PaymentRequest,
    payment_id: UUID,
    buyer_id: UUID,
    decision: Decision,
    orders: Sequence[_Order],
    *,
    provider: str,
) -> str:
    """Everything a rebuild needs of the intent; the buyer only by reference."""
    is_blocked = decision.decision is RiskDecision.BLOCK
    body = {
        "payment_id": payment_id,
        "checkout_id": request.checkout_id,
        "request_digest": request.digest(),
        "buyer_id": buyer_id,
        "metadata": request.metadata,
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


def _transfers_of(item: _Applied, transfer_ids: Sequence[UUID]) -> list[Transfer]:
    """Say what a decision moves: an approved charge its gross, a decline nothing."""
    operation, charge = item.operation, item.operation.charge
    if item.outcome.kind is not OutcomeKind.APPROVED:
        return []
    return charge_transfers(
        transfer_ids=transfer_ids,
        shop_id=operation.shop_id,
        mode=charge.mode,
        provider=operation.provider,
        seller=operation.seller_account,
        gross_minor=charge.amount_minor,
        commission_minor=operation.commission_minor,
        currency=charge.currency,
        subject_id=operation.payment_id,
    )


def _transfer_row(leg: Transfer) -> tuple[Any, ...]:
    return (
        leg.transfer_id,
        leg.kind,
        leg.debit_account_id,
        leg.credit_account_id,
        leg.amount_minor,
        leg.currency,
        leg.subject_id,
    )


def _outcome_row(item: _Applied, event_id: UUID, legs: Sequence[Transfer]) -> tuple[Any, ...]:
    operation, outcome = item.operation, item.outcome
    body = {
        "operation_id": operation.charge.operation_id,
        "order_id": operation.order_id,
        "attempt": operation.attempt,
        "outcome": outcome.kind,
        "status": _ORDER_STATUS[outcome.kind],
        "provider_reference": outcome.provider_reference,
        "decline_code": outcome.decline_code,
        "transfers": [
            {
                "transfer_id": leg.transfer_id,
                "kind": leg.kind,
                "debit_account_id": leg.debit_account_id,
                "credit_account_id": leg.credit_account_id,
                "amount_minor": leg.amount_minor,
                "currency": leg.currency,
            }
            for leg in legs
        ],
    }
    return (
        operation.charge.operation_id,
        operation.attempt,
        _OPERATION_STATUS[outcome.kind].value,
        operation.order_id,
        _ORDER_STATUS[outcome.kind].value,
        outcome.provider_reference,
        outcome.decline_code,
        operation.payment_id,
        operation.shop_id,
        operation.charge.mode.value,
        event_id,
        _EVENT_KIND[outcome.kind].value,
        _encode(body).decode(),
    )


def _view(rows: Sequence[asyncpg.Record]) -> PaymentView:
    first = rows[0]
    return PaymentView(
        first["payment_id"],
        first["shop_id"],
        Mode(first["mode"]),
        first["checkout_id"],
        first["buyer_reference"],
        None if first["metadata"] is None else msgspec.json.decode(first["metadata"]),
        first["created_at"],
        tuple(
            OrderView(
                row["payment_order_id"],
                row["seller_account"],
                row["amount_minor"],
                row["commission_minor"],
                row["currency"],
                row["provider"],
                OrderStatus(row["status"]),
                row["decline_code"],
                row["provider_reference"],
            )
            for row in rows
        ),
    )
