"""A seller's statement, read from the ledger: what there was, what moved, and what there is.

All of one statement is read on one snapshot, so that opening and movements always add up to the closing balance.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.ids import TRANSFER, print_id
from coatcheck.ledger import payouts_in_transit, seller_available, seller_pending
from coatcheck.states import Mode
from coatcheck.store import Store

MOVEMENTS_MOST = 100_000
PDF_MOVEMENTS_MOST = 1_000  # some thirty pages, three seconds of a processor; who needs more reads the CSV


class TooLongError(Exception):
    """The period has more movements than one statement holds; the text says what to ask for instead."""


class Balances(msgspec.Struct, frozen=True):
    """What a seller has of one currency (minor units); all of it is what the platform owes him. May be negative."""

    pending_minor: int = 0
    available_minor: int = 0
    in_payout_minor: int = 0
    reserved_minor: int = 0

    @property
    def total_minor(self) -> int:
        """All of it."""
        return self.pending_minor + self.available_minor + self.in_payout_minor + self.reserved_minor

    def plus(self, other: "Balances") -> "Balances":
        """Add a change to it."""
        return Balances(
            self.pending_minor + other.pending_minor,
            self.available_minor + other.available_minor,
            self.in_payout_minor + other.in_payout_minor,
            self.reserved_minor + other.reserved_minor,
        )


class Movement(msgspec.Struct, frozen=True):
    """One movement: what for, about which payment or payout, what it changed, and what there was after it."""

    at: datetime
    kind: str
    about: str
    transfer_id: str
    change: Balances
    balance: Balances


class CurrencyStatement(msgspec.Struct, frozen=True):
    """One currency's part: opening + movements = closing."""

    currency: str
    opening: Balances
    movements: list[Movement]
    closing: Balances


class Statement(msgspec.Struct, frozen=True):
    """A seller's statement: from one moment until before another."""

    seller_account: str
    shop_id: UUID
    mode: Mode
    begins_at: datetime
    ends_at: datetime
    currencies: list[CurrencyStatement]


async def read_statement(
    store: Store, shop_id: UUID, mode: Mode, seller: str, *, begins_at: datetime, ends_at: datetime
) -> Statement | None:
    """Read a seller's statement from `begins_at` until before `ends_at`; None for a seller without accounts.

    Raises TooLongError for more than MOVEMENTS_MOST movements. Only reads, on one snapshot.
    """
    fields = _fields_of(seller)
    world = (shop_id, mode.value, list(fields))
    async with store.pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        opened = await connection.fetch(store.queries["seller_statement_opening"], *world, begins_at)
        moved = await connection.fetch(
            store.queries["seller_statement_movements"], *world, begins_at, ends_at, MOVEMENTS_MOST + 1
        )
    if len(moved) > MOVEMENTS_MOST:
        raise TooLongError(f"Ask for a shorter period: it has over {MOVEMENTS_MOST} movements.")
    if not opened:
        return None
    movements = {currency: list(rows) for currency, rows in groupby(moved, key=itemgetter("currency"))}
    parts = [
        _part(currency, _opening(rows, fields), movements.get(currency, []), fields)
        for currency, rows in groupby(opened, key=itemgetter("currency"))
    ]
    return Statement(seller, shop_id, mode, begins_at, ends_at, parts)


def _fields_of(seller: str) -> Mapping[str, str]:
    """Say which of the balances each of a seller's accounts is."""
    return {
        seller_pending(seller).name: "pending_minor",
        seller_available(seller).name: "available_minor",
        payouts_in_transit(seller).name: "in_payout_minor",
        f"seller:{seller}:reserve": "reserved_minor",
    }


def _opening(rows: Iterable[asyncpg.Record], fields: Mapping[str, str]) -> Balances:
    return Balances(**{fields[row["name"]]: row["balance_minor"] for row in rows})


def _part(
    currency: str, opening: Balances, rows: Iterable[asyncpg.Record], fields: Mapping[str, str]
) -> CurrencyStatement:
    movements: list[Movement] = []
    balance = opening
    for row in rows:
        change = _change_of(row, fields)
        balance = balance.plus(change)
        subject, prefix = row["subject_id"], row["prefix"]
        about = str(subject) if prefix is None else print_id(prefix, subject)
        printed = print_id(TRANSFER, row["transfer_id"])
        movements.append(Movement(row["at"], row["kind"], about, printed, change, balance))
    return CurrencyStatement(currency, opening, movements, balance)


def _change_of(row: asyncpg.Record, fields: Mapping[str, str]) -> Balances:
    """Say what a transfer changes: between two of the seller's own accounts both, and their sum not at all."""
    change = Balances()
    if row["given_to"] is not None:
        change = change.plus(Balances(**{fields[row["given_to"]]: row["amount_minor"]}))
    if row["taken_from"] is not None:
        change = change.plus(Balances(**{fields[row["taken_from"]]: -row["amount_minor"]}))
    return change
