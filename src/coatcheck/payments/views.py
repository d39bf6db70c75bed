"""Payments as they stand, read from their rows."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.states import Capture, Mode, OnFailure, OrderStatus, PaymentStatus, payment_status_of
from coatcheck.store import Store


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
    authorized_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    redirect_url: str | None = None
    expires_at: datetime | None = None
    is_acting: bool = False


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
    capture: Capture = Capture.AUTOMATIC
    on_failure: OnFailure = OnFailure.KEEP

    @property
    def status(self) -> PaymentStatus:
        """Where the whole checkout stands."""
        return payment_status_of([order.status for order in self.orders])

    @property
    def is_settling(self) -> bool:
        """Whether the gateway goes on without being asked: a capture or void is under way, or all-or-nothing's next."""
        if any(order.is_acting for order in self.orders):
            return True
        waits = {OrderStatus.EXECUTING, OrderStatus.PENDING}
        return (
            self.on_failure is OnFailure.ALL_OR_NOTHING
            and self.status is PaymentStatus.AUTHORIZED
            and not any(order.status in waits for order in self.orders)
        )

    @property
    def redirect_url(self) -> str | None:
        """Where the buyer pays, while an order waits for that."""
        for order in self.orders:
            if order.redirect_url is not None and order.status is OrderStatus.PENDING:
                return order.redirect_url
        return None

    @property
    def is_done(self) -> bool:
        """Whether every order is final."""
        return all(order.status.is_final for order in self.orders)


async def read_payments(store: Store, payment_ids: Sequence[UUID]) -> list[PaymentView | None]:
    """Read payments with their orders, in the order asked for; None where there is no such payment."""
    rows = await store.pool.fetch(store.queries["payment_read"], list(set(payment_ids)))
    found = {payment_id: list(group) for payment_id, group in groupby(rows, key=itemgetter("payment_id"))}
    return [_payment_view(found[payment_id]) if payment_id in found else None for payment_id in payment_ids]


def order_view(row: asyncpg.Record) -> OrderView:
    """Take an order's own columns from a row that has them."""
    return OrderView(
        row["payment_order_id"],
        row["seller_account"],
        row["amount_minor"],
        row["commission_minor"],
        row["currency"],
        row["provider"],
        OrderStatus(row["status"]),
        row["decline_code"],
        row["provider_reference"],
        row["authorized_minor"],
        row["captured_minor"],
        row["refunded_minor"],
        row["redirect_url"],
        row["expires_at"],
        row["is_acting"],
    )


def _payment_view(rows: Sequence[asyncpg.Record]) -> PaymentView:
    first = rows[0]
    return PaymentView(
        first["payment_id"],
        first["shop_id"],
        Mode(first["mode"]),
        first["checkout_id"],
        first["buyer_reference"],
        None if first["metadata"] is None else msgspec.json.decode(first["metadata"]),
        first["created_at"],
        tuple([order_view(row) for row in rows]),
        Capture(first["capture"]),
        OnFailure(first["on_failure"]),
    )
