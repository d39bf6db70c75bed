"""Corrections: what a settlement file settles that we did not know, by the same way in as any other answer of the PSP.

The third step of the ladder: an operation that neither a retry nor a look-up could decide is decided by the file.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.executor import Executor
from coatcheck.ids import account_id_of, derive_id, time_ordered_ids
from coatcheck.ledger import Ledger, Transfer, TransferKind, psp_receivable, suspense
from coatcheck.operations import Operation, Operations
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.states import OperationStatus
from coatcheck.store import Store

BY_THE_FILE = "coatcheck"
_UNDECIDED = frozenset({OperationStatus.OPEN, OperationStatus.PENDING, OperationStatus.UNRESOLVED})
_OF_STATUS = """
SELECT k.break_id, k.operation_id, l.provider_reference, f.name, l.line_no
  FROM reconciliation_break AS k
  JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
  JOIN settlement_file AS f ON f.file_id = k.file_id
 WHERE k.file_id = $1 AND k.kind = 'status' AND k.closed_at IS NULL AND l.kind IN ('charge', 'refund')
"""

log = structlog.get_logger("coatcheck.reconciliation")


class Corrections:
    """Brings the books to what a file has proven."""

    def __init__(self, store: Store, clock: Clock, operations: Operations, executor: Executor) -> None:
        self._store = store
        self._clock = clock
        self._operations = operations
        self._executor = executor
        self._ledger = Ledger(store)

    async def correct(self, file_id: UUID) -> int:
        """Decide what is undecided here and charged or refunded by the file; returns how many breaks that closed.

        What was decided otherwise here is asked about: the PSP's answer decides, not its file alone (hazard A9).
        Idempotent: what could not be done is left open, and done at the next call.
        """
        rows = await self._store.pool.fetch(_OF_STATUS, file_id)
        standing = await self._operations.stand([row["operation_id"] for row in rows])
        undecided = [row for row in rows if standing[row["operation_id"]].operation.status in _UNDECIDED]
        await self._decide(undecided)
        others = [row["operation_id"] for row in rows if row not in undecided]
        reopened = await self._operations.reopen(others, "a settlement file has it") if others else []
        if reopened:
            await self._executor.start(reopened)
        after = await self._operations.stand([row["operation_id"] for row in rows])
        agreeing = [
            row["break_id"] for row in rows if after[row["operation_id"]].operation.status is OperationStatus.APPROVED
        ]
        return await self.close(agreeing, BY_THE_FILE, "the operation is settled as the file says")

    async def _decide(self, rows: Sequence[asyncpg.Record]) -> None:
        told = {row["operation_id"]: row for row in rows}
        for operation in await self._operations.claim_named(list(told)) if told else []:
            await self._executor.settle(operation, _outcome_of(operation, told[operation.intent.operation_id]))

    async def close(self, break_ids: Sequence[UUID], who: str, why: str) -> int:
        """Close breaks with a reason and take out of suspense what stood there for them. Returns how many were open.

        Posts one transfer for each that has an amount there. Idempotent on the break.
        """
        at = self._clock.now()
        async with self._store.pool.acquire() as connection, connection.transaction():
            closed = await connection.fetch("SELECT * FROM close_breaks($1, $2, $3, $4)", at, list(break_ids), who, why)
            transfers = [_explained(row) for row in closed if row["suspense_minor"]]
            if transfers:
                await self._ledger.post_within(connection, transfers, at)
            for row, event_id in zip(closed, time_ordered_ids(at, len(closed)), strict=True):
                await self._tell(connection, row, event_id)
        return len(closed)

    async def _tell(self, connection: Any, row: asyncpg.Record, event_id: UUID) -> None:
        transfers = [_explained(row)] if row["suspense_minor"] else []
        body = {"break_id": row["break_id"], "kind": row["kind"], "by": row["closed_by"], "reason": row["reason"]}
        told = msgspec.json.encode(body | {"transfers": transfers}).decode()
        kind, world = EventKind.BREAK_CLOSED.value, (row["shop_id"], row["mode"])
        await connection.execute(
            self._store.queries["event_write"], *(row["break_id"], event_id, kind, *world, row["closed_at"], told)
        )


def _outcome_of(operation: Operation, row: asyncpg.Record) -> Outcome:
    """Say what the file's line is as an answer of the PSP: its amount was compared when it was loaded."""
    intent = operation.intent
    return Outcome(
        kind=OutcomeKind.APPROVED,
        provider_reference=row["provider_reference"],
        amount_minor=intent.amount_minor,
        currency=intent.currency,
        reference=intent.reference,
        evidence=f"settlement file {row['name']}, line {row['line_no']}",
    )


def _explained(row: asyncpg.Record) -> Transfer:
    names = suspense(row["provider"]), psp_receivable(row["provider"])
    debit, credit = names if row["suspense_minor"] > 0 else names[::-1]
    return Transfer(
        transfer_id=derive_id("explained", row["break_id"].hex),
        kind=TransferKind.EXPLAINED.value,
        debit_account_id=account_id_of(row["shop_id"], row["mode"], debit.name, row["currency"]),
        credit_account_id=account_id_of(row["shop_id"], row["mode"], credit.name, row["currency"]),
        amount_minor=abs(row["suspense_minor"]),
        currency=row["currency"],
        subject_id=row["break_id"],
    )
