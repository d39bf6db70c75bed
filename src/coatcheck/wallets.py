"""Wallets: what a seller has, per currency, now or at a past moment. A view of ledger accounts, never a second book.

docs/wallets.md says how each number is made.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.ledger import payouts_in_transit, seller_available, seller_pending, seller_reserve
from coatcheck.states import Mode
from coatcheck.store import Store


class Wallet(msgspec.Struct, frozen=True):
    """One currency of a seller's money (minor units).

    Pending may be negative: refunds and chargebacks come after the money has moved on. Available already lacks what a
    hold has reserved. Money only authorized at the PSP is in neither. Reserve is what is kept of releases for a while.
    """

    currency: str
    pending_minor: int
    available_minor: int
    in_payout_minor: int
    reserve_minor: int = 0

    @property
    def payable_minor(self) -> int:
        """What can be paid out now: available, less what is owed where pending is below zero (hazard D9)."""
        return max(self.available_minor + min(self.pending_minor, 0), 0)


async def wallet(store: Store, shop_id: UUID, mode: Mode, seller_account: str) -> list[Wallet]:
    """Read a seller's balances, one per currency in which an account is open; empty for an unknown seller."""
    rows = await store.pool.fetch(
        store.queries["wallet_balances"],
        shop_id,
        mode.value,
        seller_pending(seller_account).name,
        seller_available(seller_account).name,
        payouts_in_transit(seller_account).name,
        seller_reserve(seller_account).name,
    )
    return [Wallet(*row) for row in rows]


async def wallet_at(store: Store, shop_id: UUID, mode: Mode, seller_account: str, moment: datetime) -> list[Wallet]:
    """Read a seller's balances as they were at a moment: of all transfers up to it, that moment included.

    Empty when no account was open then. What it reads is bounded by the marks that the maturing job makes; where those
    are not proven whole in the same look, it adds up every transfer up to the moment.
    """
    names = [
        each(seller_account).name for each in (seller_pending, seller_available, payouts_in_transit, seller_reserve)
    ]
    accounts = await store.pool.fetch(store.queries["wallet_accounts"], shop_id, mode.value, names, moment)
    account_ids = [account["account_id"] for account in accounts]
    rows = await _counters_at(store, account_ids, moment)
    balances: dict[str, dict[str, int]] = {}
    for account in accounts:
        row = rows[account["account_id"]]
        balance_minor = row["credits_posted_minor"] - row["debits_posted_minor"]
        if account["name"] == seller_available(seller_account).name:
            balance_minor -= row["debits_pending_minor"]
        balances.setdefault(account["currency"], {})[account["name"]] = balance_minor
    return [Wallet(currency, *[each.get(name, 0) for name in names]) for currency, each in balances.items()]


async def _counters_at(store: Store, account_ids: list[UUID], moment: datetime) -> Mapping[UUID, asyncpg.Record]:
    query = store.queries["wallet_balances_at"]
    rows = await store.pool.fetch(query, account_ids, moment, True)
    if not all(row["is_proven"] for row in rows):
        rows = await store.pool.fetch(query, account_ids, moment, False)
    return {row["account_id"]: row for row in rows}
