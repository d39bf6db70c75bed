"""Wallets: what a seller has, per currency. A view of ledger accounts, never a second book."""

from uuid import UUID

import msgspec

from coatcheck.ledger import payouts_in_transit, seller_available, seller_pending
from coatcheck.states import Mode
from coatcheck.store import Store


class Wallet(msgspec.Struct, frozen=True):
    """One currency of a seller's money (minor units).

    Pending may be negative: refunds and chargebacks come after the money has moved on. Available already lacks what a
    hold has reserved. Money only authorized at the PSP is in neither.
    """

    currency: str
    pending_minor: int
    available_minor: int
    in_payout_minor: int

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
    )
    return [Wallet(*row) for row in rows]
