"""What every export is written from: a shop's accounts and transfers, as one snapshot of the database, row by row."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.states import Mode
from coatcheck.store import Store

_AT_ONCE = 1_000  # rows that are in memory at a time
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)
# The snapshot lives as long as the reader takes: nothing here is in the way of a payment.
_NO_LIMITS = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Whose ledger, from the first day on and before the last (UTC); without days, all of it."""

    shop_id: UUID
    shop_name: str
    mode: Mode
    since: date | None = None
    until: date | None = None


class BookAccount(msgspec.Struct, frozen=True):
    """An account with its balances before the first day and before the last (minor units, a debit is above zero)."""

    account_id: UUID
    name: str
    kind: str
    normal_side: str
    currency: str
    opened_at: datetime
    opening_minor: int
    closing_minor: int


class Side(msgspec.Struct, frozen=True):
    """One of a transfer's two accounts."""

    name: str
    kind: str
    normal_side: str


class Movement(msgspec.Struct, frozen=True):
    """A transfer that counts: posted, or captured of a hold."""

    transfer_id: UUID
    kind: str
    debit: Side
    credit: Side
    amount_minor: int
    currency: str
    subject_id: UUID
    at: datetime


class Book:
    """One snapshot of a shop's ledger. It may be read more than once, and is the same each time."""

    def __init__(self, connection: Any, queries: Mapping[str, str], scope: Scope, as_of: datetime) -> None:
        self._connection = connection
        self._queries = queries
        self.scope = scope
        self.as_of = as_of
        self._since = None if scope.since is None else _midnight_of(scope.since)
        self._until = None if scope.until is None else _midnight_of(scope.until)

    async def accounts(self) -> AsyncIterator[BookAccount]:
        """Read the accounts by name and currency."""
        scope = self.scope
        found = self._connection.cursor(
            self._queries["export_accounts"],
            *(scope.shop_id, scope.mode.value, self._since or _EARLIEST, self._until),
            prefetch=_AT_ONCE,
        )
        async for row in found:
            yield BookAccount(*row)

    async def movements(self) -> AsyncIterator[Movement]:
        """Read the transfers of the period that count, by time."""
        scope = self.scope
        found = self._connection.cursor(
            self._queries["export_transfers"],
            *(scope.shop_id, scope.mode.value, self._since or _EARLIEST, self._until or _LATEST),
            prefetch=_AT_ONCE,
        )
        async for row in found:
            yield Movement(row[0], row[1], Side(*row[2:5]), Side(*row[5:8]), *row[8:])

    async def days(self) -> tuple[date, date]:
        """Find the first day, on which accounts are opened and opening balances stand, and the last that is in it."""
        scope = self.scope
        row = await self._connection.fetchrow(self._queries["export_days"], scope.shop_id, scope.mode.value)
        first_at, last_at = row["first_at"] or self.as_of, row["last_at"] or self.as_of
        first = first_at.date() if scope.since is None else scope.since
        last = max(self.as_of, last_at).date() if scope.until is None else scope.until - timedelta(days=1)
        return first, max(first, last)

    async def currencies(self) -> list[str]:
        """Name the currencies of the accounts."""
        found = await self._connection.fetch(
            self._queries["export_currencies"], self.scope.shop_id, self.scope.mode.value
        )
        return [row["currency"] for row in found]


@asynccontextmanager
async def open_book(store: Store, clock: Clock, scope: Scope) -> AsyncIterator[Book]:
    """Take a snapshot of a shop's ledger. It has all that was committed before `as_of`."""
    as_of = clock.now()
    async with (
        store.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await connection.execute(_NO_LIMITS)
        yield Book(connection, store.queries, scope, as_of)


def _midnight_of(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
