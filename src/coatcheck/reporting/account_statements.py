"""Account statements: an account's transfers by time with the balance after each, and every balance at any moment.

They are read from entries, which are made of the posted transfers in the background, and from what is queued for them:
docs/decisions/0024-statements.md.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.ids import account_id_of
from coatcheck.ledger import AccountKind
from coatcheck.loops import until_stopped
from coatcheck.states import Mode
from coatcheck.store import Store

EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
INTERVAL = timedelta(seconds=1)
# A batch that commits later than this after its time makes entries after it count it again: right, but slower.
_SETTLE = timedelta(seconds=1)
_AT_ONCE = 20_000  # transfers made entries of by one commit, and the most that a page merges by itself
_COMMITS_OF_A_PAGE = 5
_FIRST = UUID(int=0)

log = structlog.get_logger("coatcheck.statements")


class Line(msgspec.Struct, frozen=True):
    """One transfer on a statement (minor units); one of debit and credit is zero. The balance is that after it."""

    at: datetime
    transfer_id: UUID
    kind: str
    counter_account: str
    subject_id: UUID
    debit_minor: int
    credit_minor: int
    balance_minor: int


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A page of an account's statement. It has all that was committed before `as_of`.

    Opening and closing are the balances of the whole period, at its first and its last moment: opening, and what all
    lines of all pages moved, is closing. Balances count on the side that makes the account grow (minor units).
    """

    name: str
    kind: AccountKind
    currency: str
    opening_minor: int
    closing_minor: int
    lines: Sequence[Line]
    has_more: bool
    as_of: datetime


class Standing(msgspec.Struct, frozen=True):
    """An account's posted counters (minor units) at a moment; pending is None but for now."""

    account_id: UUID
    name: str
    kind: AccountKind
    currency: str
    normal_side: str
    debits_minor: int
    credits_minor: int
    debits_pending_minor: int | None
    credits_pending_minor: int | None
    opened_at: datetime

    @property
    def balance_minor(self) -> int:
        """The balance, on the side that makes the account grow."""
        return _on_side(self.normal_side, self.debits_minor, self.credits_minor)


class Total(msgspec.Struct, frozen=True):
    """What all accounts of one currency were debited and credited (minor units): the same, or the books are wrong."""

    currency: str
    debits_minor: int
    credits_minor: int


class AccountStatements:
    """Makes entries of what was posted, and reads statements and balances from them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def fill(self, *, settle: timedelta = _SETTLE, commits: int | None = None) -> int:
        """Make entries of all transfers older than a moment, or of as many as so many commits take; returns how many.

        Any process may, and one at a time does: 0 while it is another.
        """
        filled = 0
        while commits is None or commits > 0:
            done: int = await self._store.pool.fetchval(
                self._store.queries["entries_fill"], self._clock.now() - settle, _AT_ONCE
            )
            filled += done
            if done < _AT_ONCE:
                break
            commits = None if commits is None else commits - 1
        return filled

    async def keep(self, stopping: asyncio.Event, interval: timedelta = INTERVAL) -> None:
        """Make entries until stopped; trouble with the database is waited out."""

        async def fill() -> bool:  # one commit: nobody who wants us to stop waits for all of it
            return await self.fill(commits=1) >= _AT_ONCE

        await until_stopped(fill, interval, stopping, log=log, trouble="entries_failed")

    async def page(
        self,
        account: tuple[UUID, Mode, str, str],
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        after: tuple[datetime, UUID] | None = None,
        limit: int,
    ) -> Statement | None:
        """Read a page of the statement of an account (shop, mode, name, currency); None when there is no such account.

        Lines from `since` on and before `until`, oldest first, the first ones or those after a line; at most `limit`.
        """
        await self._catch_up()
        as_of = self._clock.now()
        account_id, since, until = account_id_of(*account), since or EARLIEST, until or LATEST
        place = after or (since, _FIRST)
        async with (
            self._store.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            about = await connection.fetchrow(self._store.queries["statement_account"], account_id)
            if about is None or tuple(about)[1:4] != (account[0], account[1].value, account[2]):
                return None
            standing = await connection.fetch(
                self._store.queries["statement_counters"], account_id, since, *place, until
            )
            rows = await connection.fetch(self._store.queries["statement_lines"], account_id, *place, until, limit + 1)
        return _statement_of(about, standing, rows, limit, as_of)

    async def standings(
        self,
        shop_id: UUID,
        mode: Mode,
        *,
        at: datetime | None = None,
        after: tuple[str, str] | None = None,
        limit: int | None = None,
    ) -> tuple[list[Standing], list[Total]]:
        """Read a shop's accounts by currency and name, now or as they stood before the moment `at`, and the totals.

        `after`: the currency and name that the page before ended with. The totals are those of all accounts.
        """
        await self._catch_up()
        currency, name = after or ("", "")
        async with (
            self._store.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            rows = await connection.fetch(
                self._store.queries["standing_list"], shop_id, mode.value, at, currency, name, limit
            )
            totals = await connection.fetch(self._store.queries["standing_totals"], shop_id, mode.value, at)
        standings = [Standing(row[0], row[1], AccountKind(row[2]), *tuple(row)[3:]) for row in rows]
        return standings, [Total(row[0], int(row[1]), int(row[2])) for row in totals]

    async def find(self, account_id: UUID, shop_id: UUID, mode: Mode) -> tuple[str, str] | None:
        """Find the currency and name of one of a shop's accounts by its id; None when it has no such account."""
        row = await self._store.pool.fetchrow(self._store.queries["statement_account"], account_id)
        if row is None or (row["shop_id"], row["mode"]) != (shop_id, mode.value):
            return None
        return row["currency"], row["name"]

    async def _catch_up(self) -> None:
        """Make entries first where so many are missing that a page would be slow; it would be right all the same."""
        if await self._store.pool.fetchval(self._store.queries["entry_queue_waiting"]) > _AT_ONCE:
            await self.fill(commits=_COMMITS_OF_A_PAGE)


def _statement_of(
    about: asyncpg.Record,
    standing: Sequence[asyncpg.Record],
    rows: Sequence[asyncpg.Record],
    limit: int,
    as_of: datetime,
) -> Statement:
    side: str = about["normal_side"]
    opening, before, closing = (_on_side(side, *each) for each in standing)
    lines = []
    for row in rows[:limit]:
        before += _on_side(side, row["debit_minor"], row["credit_minor"])
        lines.append(Line(**dict(row.items()), balance_minor=before))
    return Statement(
        name=about["name"],
        kind=AccountKind(about["kind"]),
        currency=about["currency"],
        opening_minor=opening,
        closing_minor=closing,
        lines=lines,
        has_more=len(rows) > limit,
        as_of=as_of,
    )


def _on_side(normal_side: str, debits_minor: int, credits_minor: int) -> int:
    return debits_minor - credits_minor if normal_side == "debit" else credits_minor - debits_minor
