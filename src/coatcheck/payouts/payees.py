"""What is arranged about paying a seller, for each currency: where the money goes, and when it goes unasked.

A destination is a token of a provider's, never bank details. A changed one cools down before anything is paid to it, so
that whoever should not have changed it can be found out.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec

from coatcheck.bank_details import bank_details_in
from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, ErrorCode, Problem
from coatcheck.ids import payee_id_of, time_ordered_ids
from coatcheck.ledger import AccountBook
from coatcheck.payouts.booking import paid_from
from coatcheck.payouts.calendar import CronError, canonical, first_after
from coatcheck.providers.protocol import Provider
from coatcheck.shops import Caller
from coatcheck.states import Mode
from coatcheck.store import Store

HOURLY = "0 * * * *"  # how often a threshold without times of its own is looked at


class ArrangementVerdict(StrEnum):
    """Whether an arrangement is new, or was there already."""

    CHANGED = "changed"
    EXISTS = "exists"


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where a seller's money of one currency goes; nothing is paid to it before `usable_from`."""

    currency: str
    provider: str
    token: str
    changed_by: str
    changed_at: datetime
    usable_from: datetime


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When a seller's money of one currency is paid out unasked; `cron` None: not at all. Minor units."""

    currency: str
    cron: str | None
    threshold_minor: int
    changed_by: str
    changed_at: datetime
    next_at: datetime | None


class Payees:
    """Keeps and shows what is arranged about paying sellers."""

    def __init__(
        self, store: Store, clock: Clock, *, providers: Mapping[str, Provider], default: str, cooldown: timedelta
    ) -> None:
        self._store = store
        self._clock = clock
        self._providers = providers
        self._default = default
        self._cooldown = cooldown
        self._book = AccountBook(store, clock)

    async def put_destination(
        self, caller: Caller, seller: str, currency: str, token: str, *, provider: str | None, by: str
    ) -> ArrangementVerdict:
        """Say where a seller's money of one currency goes; a changed destination cools down.

        Idempotent on the content. Raises CoatcheckError BANK_DETAILS_REFUSED, INVALID_REQUEST. Locks: the destination.
        """
        name = provider or self._default
        self._check_token(name, token)
        # Open before the destination is there: what is paid to it can always be booked.
        await self._book.ensure(caller.shop_id, caller.mode, [(paid_from(name), currency)])
        at = self._clock.now()
        return ArrangementVerdict(
            await self._store.pool.fetchval(
                "SELECT put_payout_destination($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                *(at, caller.shop_id, caller.mode.value, seller, currency, name, token, by, self._cooldown),
                payee_id_of(caller.shop_id, caller.mode, seller, currency),
                time_ordered_ids(at, 1)[0],
            )
        )

    def _check_token(self, provider: str, token: str) -> None:
        if bank_details_in(token):
            raise CoatcheckError(
                ErrorCode.BANK_DETAILS_REFUSED,
                "Never send bank details: give them to the provider, and send the token it gives for them. Nothing of "
                "the request was kept.",
            )
        known = self._providers.get(provider)
        shape = None if known is None else known.capabilities.payout_token
        if shape is None:
            payers = [name for name, each in self._providers.items() if each.capabilities.payout_token is not None]
            detail = f"This gateway pays nobody out through that provider; write {' or '.join(payers) or 'none'}."
            raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail, [Problem("/provider", detail)])
        if re.fullmatch(shape, token) is None:
            detail = f"Send the token that {provider} gave for the seller's bank account."
            raise CoatcheckError(ErrorCode.INVALID_REQUEST, detail, [Problem("/token", detail)])

    async def destinations(self, shop_id: UUID, mode: Mode, seller: str) -> list[Destination]:
        """Show where a seller's money goes, by currency."""
        rows = await self._store.pool.fetch(self._store.queries["payout_destinations"], shop_id, mode.value, seller)
        return [Destination(**row) for row in rows]

    async def put_schedule(
        self, caller: Caller, seller: str, currency: str, *, cron: str | None, threshold_minor: int | None, by: str
    ) -> ArrangementVerdict:
        """Say when a seller's money of one currency is paid out unasked. Neither `cron` nor threshold: not any more.

        A threshold alone is looked at each hour. The first time is after now. Idempotent on the content. Raises
        CoatcheckError INVALID_REQUEST. Locks: the schedule.
        """
        at = self._clock.now()
        times, following = None, None
        if cron is not None or threshold_minor is not None:
            try:
                times = canonical(cron or HOURLY)
                following = first_after(times, at)
            except CronError as error:
                raise CoatcheckError(
                    ErrorCode.INVALID_REQUEST, f"cron: {error}.", [Problem("/cron", f"{error}.")]
                ) from None
        return ArrangementVerdict(
            await self._store.pool.fetchval(
                "SELECT put_payout_schedule($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                *(at, caller.shop_id, caller.mode.value, seller, currency, times, threshold_minor or 1, following, by),
                payee_id_of(caller.shop_id, caller.mode, seller, currency),
                time_ordered_ids(at, 1)[0],
            )
        )

    async def schedules(self, shop_id: UUID, mode: Mode, seller: str) -> list[Schedule]:
        """Show when a seller's money is paid out unasked, by currency."""
        rows = await self._store.pool.fetch(self._store.queries["payout_schedules"], shop_id, mode.value, seller)
        return [Schedule(**row) for row in rows]
