"""The ageing of the clearing accounts: how long what stands there has stood there, and what it is (hazard H9)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.ledger import AccountKind
from coatcheck.states import Mode
from coatcheck.store import Store

BUCKETS: Final = ("0-1", "2-5", "6-30", "over 30")  # days, as people read them
_SUMS: Final = ("day_1_minor", "day_5_minor", "day_30_minor", "older_minor")
_COUNTS: Final = ("day_1", "day_5", "day_30", "older")


class AgedPart(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of thing that an account's balance is made of: how many, and their sums by age (`BUCKETS`), minor units.

    `unsettled_records`: charges, captures, refunds and payouts that no settlement file has. `batches_not_paid_out`:
    what files have told of and not paid out. `explained_breaks`: what was explained or decided since.
    `unconfirmed_payouts`: payouts of PSPs that no bank has confirmed; `unconfirmed_seller_payouts`: those to sellers
    that our account at a bank has paid. `open_breaks`: what stands in suspense. `payouts_in_transit`: those to sellers
    that are under way.
    """

    part: str
    items: int
    aged_minor: Sequence[int]


class AgedAccount(msgspec.Struct, frozen=True, kw_only=True):
    """A clearing account, in minor units on its own side.

    `aged_minor` (`BUCKETS`) and `undated_minor` together are the balance, always; of what is undated no item says since
    when it stands there, and nothing is guessed.
    """

    name: str
    kind: AccountKind
    currency: str
    balance_minor: int
    aged_minor: Sequence[int]
    undated_minor: int
    parts: Sequence[AgedPart]


class AgedBreaks(msgspec.Struct, frozen=True, kw_only=True):
    """The open breaks of one kind: how many, by age (`BUCKETS`)."""

    kind: str
    aged: Sequence[int]


class Ageing(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the clearing accounts of a shop and mode at a time, and which breaks are open."""

    at: datetime
    accounts: Sequence[AgedAccount]
    breaks: Sequence[AgedBreaks]


async def read_ageing(store: Store, clock: Clock, shop_id: UUID, mode: Mode) -> Ageing:
    """Read how old the clearing accounts' balances are, on one snapshot. Accounts with nothing on them are left out."""
    at = clock.now()
    async with store.pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL statement_timeout = 0")
        rows = await connection.fetch(store.queries["reconciliation_ageing"], shop_id, mode.value, at)
        breaks = await connection.fetch(store.queries["reconciliation_break_ages"], shop_id, mode.value, at)
    by_account: dict[tuple[str, str], list[asyncpg.Record]] = {}
    for row in rows:
        by_account.setdefault((row["currency"], row["name"]), []).append(row)
    accounts = [_account_of(each) for each in by_account.values()]
    return Ageing(
        at=at,
        accounts=[each for each in accounts if each.balance_minor or each.parts],
        breaks=[AgedBreaks(kind=row["kind"], aged=[row[name] for name in _COUNTS]) for row in breaks],
    )


def _account_of(rows: Sequence[asyncpg.Record]) -> AgedAccount:
    account, balance_minor = rows[0], rows[0]["balance_minor"]
    parts = [
        AgedPart(part=row["part"], items=row["items"], aged_minor=[row[name] for name in _SUMS])
        for row in rows
        if row["part"] is not None
    ]
    aged_minor = [sum(part.aged_minor[place] for part in parts) for place in range(len(BUCKETS))]
    return AgedAccount(
        name=account["name"],
        kind=AccountKind(account["kind"]),
        currency=account["currency"],
        balance_minor=balance_minor,
        aged_minor=aged_minor,
        undated_minor=balance_minor - sum(aged_minor),
        parts=parts,
    )
