"""Sellers' wallets: what has been settled, when it is due, and what has matured."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.audit.replay.bodies import Minor, Said
from coatcheck.audit.replay.subject import Find, Heard, Subject, newest
from coatcheck.audit.replay.tables import Place, place_of, table_of
from coatcheck.events import EventKind


class SettledPart(msgspec.Struct, frozen=True):
    """A seller's share of a charge or capture that begins to mature; None until it is decided."""

    operation_id: UUID
    pending_id: UUID
    available_id: UUID
    reserve_id: UUID
    seller_account: str
    currency: str
    amount_minor: Minor | None
    settled_at: datetime
    due_at: datetime
    reserve_basis_points: int
    reserve_due_at: datetime


class Settled(Said, frozen=True, kw_only=True):
    """A settlement file was read on."""

    file_id: UUID
    read_to: int
    is_done: bool
    parts: list[SettledPart]


class MaturedPart(msgspec.Struct, frozen=True):
    """What of a part has left the pending account."""

    operation_id: UUID
    released_minor: Minor
    reserved_minor: Minor


class Turned(Said, frozen=True, kw_only=True):
    """A wallet's money was moved, for the `turn`th time."""

    turn: int
    matured_minor: Minor
    parts: list[MaturedPart]
    reserves_ended: list[UUID]


class ReadingRow(msgspec.Struct, frozen=True):
    """How far a settlement file was read."""

    file_id: UUID
    read_to: int
    is_done: bool


class WalletTold(msgspec.Struct, frozen=True):
    """A wallet, as a part of it tells of its accounts."""

    pending_id: UUID
    available_id: UUID
    reserve_id: UUID
    shop_id: UUID
    mode: str
    seller_account: str
    currency: str


class WalletTurn(msgspec.Struct, frozen=True):
    """One turn of a wallet."""

    pending_id: UUID
    turn: int
    matured_minor: int


class PartTold(msgspec.Struct, frozen=True):
    """A part as it began."""

    operation_id: UUID
    pending_id: UUID
    file_id: UUID
    amount_minor: int | None
    settled_at: datetime
    due_at: datetime
    reserve_basis_points: int
    reserve_due_at: datetime


class PartMatured(msgspec.Struct, frozen=True):
    """A part that has matured."""

    operation_id: UUID
    matured_at: datetime
    released_minor: int
    reserved_minor: int


class ReserveEnded(msgspec.Struct, frozen=True):
    """A part whose reserve is over."""

    operation_id: UUID
    reserve_ended_at: datetime


class WalletRow(WalletTold, frozen=True):
    """A wallet with what its turns add up to."""

    matured_minor: int
    turn: int


class PartRow(PartTold, frozen=True):
    """A part with what became of it."""

    matured_at: datetime | None
    released_minor: int
    reserved_minor: int
    reserve_ended_at: datetime | None


def fold_wallets(heard: Sequence[Heard[Any]], find: Find) -> Iterator[msgspec.Struct]:
    """Make the rows of one settlement file's parts, or of one wallet's turns."""
    settled = [each for each in heard if isinstance(each.body, Settled)]
    read = ((each, ReadingRow(each.body.file_id, each.body.read_to, each.body.is_done)) for each in settled)
    yield from newest(read, find, key=lambda row: row.file_id, rank=lambda row: (row.read_to, row.is_done))
    parts = ((each, _part_of(each.body, part)) for each in settled for part in each.body.parts)
    yield from newest(parts, find, key=lambda row: row.operation_id, rank=lambda row: row.amount_minor is not None)
    yield from {_wallet_of(each, part) for each in settled for part in each.body.parts}
    for each in heard:
        if isinstance(each.body, Turned):
            yield from _turn_of(each)


def _part_of(body: Settled, part: SettledPart) -> PartTold:
    return PartTold(
        *(part.operation_id, part.pending_id, body.file_id, part.amount_minor, part.settled_at, part.due_at),
        *(part.reserve_basis_points, part.reserve_due_at),
    )


def _wallet_of(heard: Heard[Settled], part: SettledPart) -> WalletTold:
    return WalletTold(
        *(part.pending_id, part.available_id, part.reserve_id, heard.event.shop_id, heard.event.mode),
        *(part.seller_account, part.currency),
    )


def _turn_of(heard: Heard[Turned]) -> Iterator[msgspec.Struct]:
    body = heard.body
    yield WalletTurn(heard.event.subject_id, body.turn, body.matured_minor)
    for part in body.parts:
        yield PartMatured(part.operation_id, heard.at, part.released_minor, part.reserved_minor)
    for operation_id in body.reserves_ended:
        yield ReserveEnded(operation_id, heard.at)


_WALLET = table_of("wallet", WalletRow, is_folded=False)
_PART = table_of("maturing", PartRow, is_folded=False)
_TOLD = Place(
    name="wallet_told",
    like="SELECT pending_id, available_id, reserve_id, shop_id, mode, seller_account, currency FROM public.wallet",
    row=WalletTold,
)
_TURN = Place(name="wallet_turn", like="SELECT pending_id, turn, matured_minor FROM public.wallet", row=WalletTurn)
_BEGUN = Place(
    name="maturing_begun",
    like="SELECT operation_id, pending_id, file_id, amount_minor, settled_at, due_at, reserve_basis_points, "
    "reserve_due_at FROM public.maturing",
    row=PartTold,
)
_MATURED = Place(
    name="maturing_matured",
    like="SELECT operation_id, matured_at, released_minor, reserved_minor FROM public.maturing",
    row=PartMatured,
)
_ENDED = Place(
    name="maturing_ended", like="SELECT operation_id, reserve_ended_at FROM public.maturing", row=ReserveEnded
)
_WALLETS = f"""
    INSERT INTO pg_temp.{place_of("wallet")} ({", ".join(_WALLET.every_column)})
    SELECT t.*, coalesce(n.matured_minor, 0), coalesce(n.turn, 0)
      FROM (SELECT DISTINCT * FROM pg_temp.{place_of(_TOLD.name)}) AS t
      LEFT JOIN (SELECT pending_id, sum(matured_minor) AS matured_minor, max(turn) AS turn
                   FROM pg_temp.{place_of(_TURN.name)} GROUP BY pending_id) AS n ON n.pending_id = t.pending_id
"""
_PARTS = f"""
    INSERT INTO pg_temp.{place_of("maturing")} ({", ".join(_PART.every_column)})
    SELECT b.*, m.matured_at, coalesce(m.released_minor, 0), coalesce(m.reserved_minor, 0), e.reserve_ended_at
      FROM pg_temp.{place_of(_BEGUN.name)} AS b
      LEFT JOIN pg_temp.{place_of(_MATURED.name)} AS m ON m.operation_id = b.operation_id
      LEFT JOIN pg_temp.{place_of(_ENDED.name)} AS e ON e.operation_id = b.operation_id
"""

SUBJECT = Subject(
    bodies=MappingProxyType(
        {
            EventKind.WALLET_SETTLED.value: Settled,
            EventKind.WALLET_RELEASED.value: Turned,
            EventKind.WALLET_OFFSET.value: Turned,
        }
    ),
    fold=fold_wallets,
    tables=(_WALLET, _PART, table_of("settled_reading", ReadingRow)),
    places=(_TOLD, _TURN, _BEGUN, _MATURED, _ENDED),
    sums=(_WALLETS, _PARTS),
)
