"""Reports over a period: what was turned over and earned, what providers kept, and how many payments succeeded.

Every row is of one currency: nothing is ever added over currencies (hazard E8). Days are UTC.
"""

from collections.abc import Iterable, Sequence
from datetime import date
from enum import StrEnum
from itertools import groupby
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.ledger import psp_receivable
from coatcheck.states import Mode, OrderStatus
from coatcheck.store import Store

DAYS_MOST = 400  # of a report by day
_MONTHS_MOST = 120
_SUCCEEDED = frozenset({OrderStatus.SUCCESS, OrderStatus.AUTHORIZED})
_OPEN = frozenset({OrderStatus.NOT_STARTED, OrderStatus.EXECUTING, OrderStatus.PENDING})
_RATE_UNITS = 10_000  # a rate has four decimals
_RECEIVABLE_BEFORE, _RECEIVABLE_AFTER = psp_receivable("\0").name.split("\0")


class Granularity(StrEnum):
    """What a row of a report sums up."""

    DAY = "day"
    MONTH = "month"


class Period(msgspec.Struct, frozen=True):
    """From the first day on and before the last (UTC), in rows of a day or a month."""

    since: date
    until: date
    granularity: Granularity = Granularity.DAY

    @property
    def problem(self) -> str | None:
        """What is wrong with the period; None when nothing is."""
        if self.until <= self.since:
            return "The last day, which is not in the report any more, must be after the first."
        days = (self.until - self.since).days
        if self.granularity is Granularity.DAY and days > DAYS_MOST:
            return f"Ask for at most {DAYS_MOST} days, or for months."
        return f"Ask for at most {_MONTHS_MOST} months." if days > _MONTHS_MOST * 31 else None


class Revenue(msgspec.Struct, frozen=True):
    """One currency and period (minor units): what buyers paid and got back, and what the platform earned and paid."""

    period: date
    currency: str
    charged_minor: int
    refunded_minor: int
    commission_minor: int
    commission_returned_minor: int
    psp_fees_minor: int
    dispute_fees_minor: int

    @property
    def net_minor(self) -> int:
        """The commission that is left, less all fees."""
        return self.commission_minor - self.commission_returned_minor - self.psp_fees_minor - self.dispute_fees_minor


class Fees(msgspec.Struct, frozen=True):
    """What one provider kept in one period and currency (minor units), by the kind of the transfers."""

    period: date
    provider: str
    currency: str
    kind: str
    fees_minor: int
    transfers: int


class Declines(msgspec.Struct, frozen=True):
    """Orders that failed for one reason; `code` is None where none was given."""

    code: str | None
    orders: int
    amount_minor: int


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """Payment orders accepted in one period, of one provider and currency, as they stand now (minor units)."""

    period: date
    provider: str
    currency: str
    orders: int
    succeeded: int
    failed: int
    cancelled: int
    open: int
    amount_minor: int
    captured_minor: int
    refunded_minor: int
    declines: list[Declines]

    @property
    def success_rate(self) -> str | None:
        """Succeeded (charged or authorized) of those that succeeded or failed, rounded down; None of none."""
        decided = self.succeeded + self.failed
        if decided == 0:
            return None
        units = self.succeeded * _RATE_UNITS // decided
        return f"{units // _RATE_UNITS}.{units % _RATE_UNITS:04}"


async def revenue(store: Store, shop_id: UUID, mode: Mode, period: Period) -> list[Revenue]:
    """Read what was turned over and earned, by period and currency."""
    rows = await _fetch(store, "report_revenue", shop_id, mode, period)
    return [Revenue(row[0], row[1], *[int(sum_minor) for sum_minor in tuple(row)[2:]]) for row in rows]


async def fees(store: Store, shop_id: UUID, mode: Mode, period: Period) -> list[Fees]:
    """Read what providers kept, by period, provider, currency and kind."""
    rows = await _fetch(store, "report_fees", shop_id, mode, period)
    return [
        Fees(
            row["period"],
            row["receivable"].removeprefix(_RECEIVABLE_BEFORE).removesuffix(_RECEIVABLE_AFTER),
            row["currency"],
            row["kind"],
            int(row["fees_minor"]),
            row["transfers"],
        )
        for row in rows
    ]


async def volumes(store: Store, shop_id: UUID, mode: Mode, period: Period) -> list[Volume]:
    """Read how many orders were accepted, of what amount, and what became of them, by period, provider and currency."""
    rows = await _fetch(store, "report_volumes", shop_id, mode, period)
    grouped = groupby(rows, key=lambda row: (row["period"], row["provider"], row["currency"]))
    return [_volume_of(*key, list(group)) for key, group in grouped]


async def _fetch(store: Store, query: str, shop_id: UUID, mode: Mode, period: Period) -> Sequence[asyncpg.Record]:
    rows: Sequence[asyncpg.Record] = await store.pool.fetch(
        store.queries[query], shop_id, mode.value, period.since, period.until, period.granularity.value
    )
    return rows


def _volume_of(period: date, provider: str, currency: str, rows: Sequence[asyncpg.Record]) -> Volume:
    def counted(statuses: Iterable[OrderStatus]) -> int:
        return sum(row["orders"] for row in rows if row["status"] in statuses)

    return Volume(
        period=period,
        provider=provider,
        currency=currency,
        orders=sum(row["orders"] for row in rows),
        succeeded=counted(_SUCCEEDED),
        failed=counted([OrderStatus.FAILED]),
        cancelled=counted([OrderStatus.CANCELLED]),
        open=counted(_OPEN),
        amount_minor=int(sum(row["amount_minor"] for row in rows)),
        captured_minor=int(sum(row["captured_minor"] for row in rows)),
        refunded_minor=int(sum(row["refunded_minor"] for row in rows)),
        declines=[
            Declines(row["decline_code"], row["orders"], int(row["amount_minor"]))
            for row in rows
            if row["status"] == OrderStatus.FAILED
        ],
    )
