"""Payouts as they stand, read from their rows."""

from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.states import Mode, PayoutStatus


class PayoutView(msgspec.Struct, frozen=True, kw_only=True):
    """A payout as it stands. Minor units; `destination` is the provider's token, as it was when it was asked for."""

    payout_id: UUID
    shop_id: UUID
    mode: Mode
    seller_account: str
    currency: str
    amount_minor: int
    provider: str
    destination: str
    run_id: UUID | None
    status: PayoutStatus
    decline_code: str | None
    provider_reference: str | None
    created_at: datetime
    decided_at: datetime | None


class PayoutQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a shop's payouts are meant; None is any."""

    shop_id: UUID
    mode: Mode
    seller_account: str | None = None
    status: PayoutStatus | None = None
    run_id: UUID | None = None


def view_of(row: asyncpg.Record) -> PayoutView:
    """Take a payout's own columns from a row that has them."""
    return PayoutView(
        payout_id=row["payout_id"],
        shop_id=row["shop_id"],
        mode=Mode(row["mode"]),
        seller_account=row["seller_account"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        provider=row["provider"],
        destination=row["destination"],
        run_id=row["run_id"],
        status=PayoutStatus(row["status"]),
        decline_code=row["decline_code"],
        provider_reference=row["provider_reference"],
        created_at=row["created_at"],
        decided_at=row["decided_at"],
    )
