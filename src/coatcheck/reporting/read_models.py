"""Read models: payments page by page, one order, a subject's events. Everything here only reads."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.payments import OrderView, order_view
from coatcheck.states import Mode, OrderStatus, PaymentStatus, payment_status_of
from coatcheck.store import Store

SCANNED_MOST = 1_000  # payments looked at for one page of a filtered list
_FIRST_EVENT = UUID(int=0)
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class Place(msgspec.Struct, frozen=True):
    """A row's place in a list that is ordered by time, then id."""

    at: datetime
    row_id: UUID


NEWEST = Place(datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


class PaymentQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which payments of a shop and mode: created after one time and before another, both exclusive."""

    shop_id: UUID
    mode: Mode
    created_after: datetime | None = None
    created_before: datetime | None = None
    status: PaymentStatus | None = None
    buyer_id: UUID | None = None


class PaymentPage(msgspec.Struct, frozen=True):
    """One page: the payments found, newest first, and where the next page begins; None at the end of the list."""

    payment_ids: list[UUID]
    resume_at: Place | None


class OrderReport(msgspec.Struct, frozen=True):
    """One payment order as it stands, with whose it is."""

    order: OrderView
    payment_id: UUID
    shop_id: UUID
    mode: Mode
    checkout_id: str
    created_at: datetime
    decided_at: datetime | None


class EventRecord(msgspec.Struct, frozen=True):
    """One audit event; `body` is the JSON object as it was written."""

    event_id: UUID
    kind: str
    at: datetime
    body: str


async def find_payments(store: Store, query: PaymentQuery, *, older_than: Place | None, limit: int) -> PaymentPage:
    """Find the next payments of a list, at most `limit`.

    No index knows a payment's status or buyer: with either filter at most SCANNED_MOST payments are looked at, and the
    page may hold fewer than `limit`, even none, while the list goes on at `resume_at`.
    """
    is_filtered = query.status is not None or query.buyer_id is not None
    most = SCANNED_MOST if is_filtered else limit + 1
    start = older_than or NEWEST
    if query.created_before is not None:
        # Nothing is created at the first id of a moment, so this place is the moment itself, exclusive.
        start = min(start, Place(query.created_before, UUID(int=0)), key=lambda place: (place.at, place.row_id))
    rows = await store.pool.fetch(
        store.queries["payment_list"],
        *(query.shop_id, query.mode.value, start.at, start.row_id),
        *(query.created_after or _EARLIEST, most, query.status is not None),
    )
    found: list[UUID] = []
    passed: Place | None = None
    for row in rows:
        if len(found) == limit:
            return PaymentPage(found, passed)
        passed = Place(row["created_at"], row["payment_id"])
        if _is_asked_for(query, row):
            found.append(row["payment_id"])
    return PaymentPage(found, passed if len(rows) == most else None)


def _is_asked_for(query: PaymentQuery, row: asyncpg.Record) -> bool:
    if query.buyer_id is not None and row["buyer_id"] != query.buyer_id:
        return False
    return query.status is None or payment_status_of(OrderStatus(each) for each in row["statuses"]) is query.status


async def find_order(store: Store, order_id: UUID) -> OrderReport | None:
    """Read one payment order; None when there is none."""
    row = await store.pool.fetchrow(store.queries["order_read"], order_id)
    if row is None:
        return None
    return OrderReport(
        order_view(row),
        row["payment_id"],
        row["shop_id"],
        Mode(row["mode"]),
        row["checkout_id"],
        row["created_at"],
        row["decided_at"],
    )


async def find_events(store: Store, subject_id: UUID, *, after: UUID | None, limit: int) -> Sequence[EventRecord]:
    """Read what happened to a payment, a key or an account, in order, after one event."""
    rows = await store.pool.fetch(store.queries["event_list"], subject_id, after or _FIRST_EVENT, limit)
    return [EventRecord(*row) for row in rows]
