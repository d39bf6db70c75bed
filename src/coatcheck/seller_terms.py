"""Terms of sellers: how long their money is held after its settlement, and what of it is kept in reserve.

Terms hold for what is settled from then on; what matures already keeps those it began with.
"""

from datetime import datetime
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.config import Settings
from coatcheck.ids import seller_id_of
from coatcheck.states import Mode
from coatcheck.store import Store


class Seller(msgspec.Struct, frozen=True):
    """A seller of one shop and mode, by the shop's own id."""

    shop_id: UUID
    mode: Mode
    name: str


class Terms(msgspec.Struct, frozen=True):
    """When a seller's money can be paid, and what of it is kept for how long (hundredths of a percent)."""

    hold_days: int
    reserve_basis_points: int
    reserve_days: int


class SellerTerms(msgspec.Struct, frozen=True):
    """The terms that hold for a seller; `set_by` None: nobody has set any, so those of the settings hold."""

    terms: Terms
    set_by: str | None = None
    set_at: datetime | None = None


def usual_terms_of(settings: Settings) -> Terms:
    """Give the terms of sellers for whom none were set."""
    return Terms(settings.wallet_hold_days, settings.wallet_reserve_basis_points, settings.wallet_reserve_days)


async def read_terms(store: Store, seller: Seller, usual: Terms) -> SellerTerms:
    """Read the terms that hold for a seller now."""
    row = await store.pool.fetchrow(store.queries["seller_terms_read"], seller.shop_id, seller.mode.value, seller.name)
    if row is None:
        return SellerTerms(usual)
    terms = Terms(row["hold_days"], row["reserve_basis_points"], row["reserve_days"])
    return SellerTerms(terms, row["set_by"], row["set_at"])


async def set_terms(store: Store, clock: Clock, seller: Seller, terms: Terms, *, by: str) -> bool:
    """Set a seller's terms, for what is settled from now on; False when they were so already.

    `by` is written down. Idempotent. Raises asyncpg.CheckViolationError for terms that the table forbids.
    """
    changed: bool = await store.pool.fetchval(
        "SELECT set_seller_terms($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        clock.now(),
        seller.shop_id,
        seller.mode.value,
        seller.name,
        terms.hold_days,
        terms.reserve_basis_points,
        terms.reserve_days,
        by,
        seller_id_of(seller.shop_id, seller.mode, seller.name),
    )
    return changed
