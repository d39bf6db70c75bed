"""The two commits of a payment. No PSP is called here.

`accept` is the first: payment, orders and operations leased to this process. `apply` is the second: outcome, status,
transfers, balances and events, all or nothing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import payment_id_of, time_ordered_ids
from coatcheck.ledger import AccountBook, charge_accounts
from coatcheck.metrics import Metrics
from coatcheck.operations import Operation
from coatcheck.payments.booking import Booking, booking_of, booking_rows
from coatcheck.payments.intake import USUAL, Intake, make_intake
from coatcheck.payments.views import OrderView, PaymentView, read_payments
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Provider
from coatcheck.risk import Assessor
from coatcheck.shops import Caller
from coatcheck.states import OrderStatus
from coatcheck.store import Batcher, Store
from coatcheck.validation import OrderRequest, PaymentRequest


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


_Answer = tuple[Verdict, UUID, datetime, str | None]


class Payments:
    """Accepts checkouts and books what became of their orders."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        provider: Provider,
        assessor: Assessor,
        holder: UUID,
        lease: timedelta,
        key_life: timedelta,
        batch_size: int,
        metrics: Metrics,
        refunds_late: bool = False,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._store = store
        self._failpoints = failpoints
        self._clock = clock
        self._provider = provider
        self._assessor = assessor
        self._holder = holder
        self._lease = lease
        self._key_life = key_life
        self._refunds_late = refunds_late
        self._book = AccountBook(store, clock, batch_size=batch_size)
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
        try:
            intake = make_intake(caller, request, key, decision, self._provider, at=self._clock.now())
        except CoatcheckError:
            known = await self._same_checkout(caller, request)
            if known is None:
                raise
            return known  # it was taken once, by another provider or under other rules: the same ticket, the same coat
        await self._failpoints.reach(Failpoint.ACCEPT_BEFORE_COMMIT)
        verdict, payment_id, accepted_at, detail = await self._accept.submit(intake)
        await self._failpoints.reach(Failpoint.ACCEPT_AFTER_COMMIT)
        operations = intake.operations if verdict is Verdict.ACCEPTED else ()
        if verdict is Verdict.CHECKOUT_CONFLICT:
            verdict, operations = await self._recognise(intake)
        return Acceptance(verdict, payment_id, accepted_at, operations, detail)

    async def _recognise(self, intake: Intake) -> tuple[Verdict, tuple[Operation, ...]]:
        """Say whether a checkout that is here with other content was adopted from the PSP; then it is this one.

        Returns the operations of orders that the PSP has never had, leased to this process.
        """
        at = self._clock.now()
        orders = _columns_of(intake.orders, width=9)
        arguments = (at, self._holder, at + self._lease, *intake.payment, *intake.manner, *orders)
        (row,) = await self._store.pool.fetch(self._store.queries["payment_recognise"], *arguments)
        if row["verdict"] == "conflict":
            return Verdict.CHECKOUT_CONFLICT, ()
        made = set(row["made"])
        return Verdict.SAME_CHECKOUT, tuple([each for each in intake.operations if each.intent.operation_id in made])

    async def apply(self, operation: Operation, outcome: Outcome) -> bool:
        """Book a PSP's decision. Posts the transfers of its effect; idempotent on the operation and its attempt.

        False when another holder has taken the operation over: its answer counts, not this one.
        Locks: the lease, the operation, the order, an all-or-nothing checkout's payment, then the accounts in id order.
        """
        booking = booking_of(operation, outcome, refunds_late=self._refunds_late)
        applied = await self._apply.submit(booking)
        status = booking.effect.order_status
        if applied and status is not None:
            self._metrics.orders[status.value, operation.intent.currency].inc()
        return applied

    async def apply_within(self, connection: Any, decisions: Sequence[tuple[Operation, Outcome]]) -> list[bool]:
        """Book decisions in the caller's transaction, as `apply` does; False where the lease is another's."""
        items = [booking_of(*decision, refunds_late=self._refunds_late) for decision in decisions]
        return await self._apply_on(connection, items) if items else []

    async def read(self, payment_id: UUID) -> PaymentView | None:
        """Show a payment as it stands; None when there is no such payment."""
        return await self._read.submit(payment_id)

    def view_of(
        self, caller: Caller, request: PaymentRequest, acceptance: Acceptance, outcomes: Sequence[Outcome | None]
    ) -> PaymentView:
        """Show a payment of usual charges that this process has just run, from what it committed.

        The same view a read would give.
        """
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
                        self._provider.name,
                        _status_of(outcome),
                        None if outcome is None else outcome.decline_code,
                        None if outcome is None else outcome.provider_reference,
                        authorized_minor=_moved(order, outcome),
                        captured_minor=_moved(order, outcome),
                    )
                    for order, outcome in zip(request.orders, outcomes, strict=True)
                ]
            ),
        )

    async def _read_batch(self, payment_ids: Sequence[UUID]) -> list[PaymentView | None]:
        return await read_payments(self._store, payment_ids)

    async def _same_checkout(self, caller: Caller, request: PaymentRequest) -> Acceptance | None:
        payment_id = payment_id_of(caller.shop_id, caller.mode, request.checkout_id)
        digest = await self._store.pool.fetchval(self._store.queries["payment_digest"], payment_id)
        if digest != request.digest():
            return None
        return Acceptance(Verdict.SAME_CHECKOUT, payment_id, self._clock.now())

    async def _open_accounts(self, caller: Caller, request: PaymentRequest) -> None:
        wanted = [
            (name, order.currency)
            for order in request.orders
            for name in charge_accounts(self._provider.name, order.seller_account)
        ]
        await self._book.ensure(caller.shop_id, caller.mode, wanted)

    async def _accept_batch(self, items: Sequence[Intake]) -> list[_Answer]:
        at = self._clock.now()
        event_ids = time_ordered_ids(at, len(items))
        payments = _columns_of([item.payment for item in items])
        manners = _columns_of([item.manner for item in items])
        usual = all(item.manner == USUAL for item in items)
        orders = _columns_of([(place, *row) for place, item in enumerate(items, 1) for row in item.orders])
        # The event ids stand before the event bodies, the last column.
        arguments = (at, at - self._key_life, self._holder, at + self._lease, *payments[:-1], event_ids, payments[-1])
        columns = (*arguments, *([None] * len(USUAL) if usual else manners), *orders)
        rows = await self._store.pool.fetch(self._store.queries["payment_accept"], *columns)
        answers = {place: (Verdict(verdict), payment_id, at, detail) for place, verdict, payment_id, detail in rows}
        return [answers[place] for place in range(1, len(items) + 1)]

    async def _apply_batch(self, items: Sequence[Booking]) -> list[bool]:
        return await self._apply_on(self._store.pool, items)

    async def _apply_on(self, connection: Any, items: Sequence[Booking]) -> list[bool]:
        at = self._clock.now()
        rows_of = booking_rows(items, at)
        changes = [None] * 13 if rows_of.changes is None else _columns_of(rows_of.changes)
        phases = [None] * 2 if rows_of.phases is None else _columns_of(rows_of.phases, width=2)
        arguments = (*_columns_of(rows_of.outcomes), *changes, *_columns_of(rows_of.transfers, width=8), *phases)
        rows = await connection.fetch(self._store.queries["payment_apply_outcomes"], at, *arguments)
        applied = {place for place, outcome in rows if outcome == "applied"}
        return [place in applied for place in range(1, len(items) + 1)]


def _status_of(outcome: Outcome | None) -> OrderStatus:
    if outcome is None:
        return OrderStatus.EXECUTING
    return OrderStatus.SUCCESS if outcome.kind is OutcomeKind.APPROVED else OrderStatus.FAILED


def _moved(order: OrderRequest, outcome: Outcome | None) -> int:
    return order.amount_minor if _status_of(outcome) is OrderStatus.SUCCESS else 0


def _columns_of(rows: Sequence[tuple[Any, ...]], width: int = 0) -> list[list[Any]]:
    """Turn rows into the arrays a set-based statement takes; `width` empty ones when there are no rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
