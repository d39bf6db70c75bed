"""Closing breaks: each with its reason, and what stood in suspense for it moves to where it belongs, in one commit."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.ids import account_id_of, derive_id, time_ordered_ids
from coatcheck.ledger import AccountName, Ledger, Transfer, TransferKind, bank, psp_receivable, suspense
from coatcheck.reconciliation.files import BANK
from coatcheck.store import Store


class Closing:
    """Closes breaks that have got their explanation."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ledger = Ledger(store)

    async def close_within(
        self, connection: Any, break_ids: Sequence[UUID], who: str, why: str, target: AccountName | None = None
    ) -> int:
        """Close breaks in the caller's transaction; returns how many were open.

        `target`: the account that the money in suspense belongs to. Without one it goes back to where it came from: the
        PSP's receivable, or our account at the bank. Idempotent on the break.
        Locks: the files of the breaks' provider, the breaks, the accounts.
        """
        at = self._clock.now()
        if not break_ids:
            return 0
        closed = await connection.fetch("SELECT * FROM close_breaks($1, $2, $3, $4)", at, list(break_ids), who, why)
        banks = await _banks_of(connection, closed)
        transfers = {
            row["break_id"]: _explained(row, target or banks.get(row["break_id"]) or psp_receivable(row["provider"]))
            for row in closed
            if row["suspense_minor"]
        }
        if transfers:
            await self._ledger.post_within(connection, list(transfers.values()), at)
        for row, event_id in zip(closed, time_ordered_ids(at, len(closed)), strict=True):
            await self._tell(connection, row, event_id, transfers.get(row["break_id"]))
        return len(closed)

    async def _tell(self, connection: Any, row: asyncpg.Record, event_id: UUID, transfer: Transfer | None) -> None:
        body = {"break_id": row["break_id"], "kind": row["kind"], "by": row["closed_by"], "reason": row["reason"]}
        told = msgspec.json.encode(body | {"transfers": [] if transfer is None else [transfer]}).decode()
        kind, world = EventKind.BREAK_CLOSED.value, (row["shop_id"], row["mode"])
        await connection.execute(
            self._store.queries["event_write"], *(row["break_id"], event_id, kind, *world, row["closed_at"], told)
        )


async def _banks_of(connection: Any, closed: Sequence[asyncpg.Record]) -> dict[UUID, AccountName]:
    """Name the accounts at the bank that the breaks of bank statements are about."""
    wanted = [row["break_id"] for row in closed if row["provider"] == BANK and row["suspense_minor"]]
    if not wanted:
        return {}
    rows = await connection.fetch(
        "SELECT k.break_id, l.account FROM reconciliation_break AS k "
        "JOIN bank_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no WHERE k.break_id = ANY ($1)",
        wanted,
    )
    return {row["break_id"]: bank(row["account"]) for row in rows}


def _explained(row: asyncpg.Record, target: AccountName) -> Transfer:
    names = suspense(row["provider"]), target
    debit, credit = names if row["suspense_minor"] > 0 else names[::-1]
    return Transfer(
        # One that is open again, or went along with its batch, is closed by another transfer than before.
        transfer_id=derive_id("explained", row["break_id"].hex, *([str(row["moved"])] if row["moved"] else [])),
        kind=TransferKind.EXPLAINED.value,
        debit_account_id=account_id_of(row["shop_id"], row["mode"], debit.name, row["currency"]),
        credit_account_id=account_id_of(row["shop_id"], row["mode"], credit.name, row["currency"]),
        amount_minor=abs(row["suspense_minor"]),
        currency=row["currency"],
        subject_id=row["break_id"],
    )
