"""What a reconciliation found: for a person to read, and as JSON for a program."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from coatcheck.store import Store

_COUNTED = """
SELECT l.currency, count(*) FILTER (WHERE l.verdict <> 'payout') AS lines,
       count(*) FILTER (WHERE l.verdict IN ('matched', 'fee')) AS matched,
       count(*) FILTER (WHERE k.closed_at IS NOT NULL) AS settled,
       coalesce(sum(l.gross_minor) FILTER (WHERE l.kind <> 'payout'), 0)::bigint AS gross_minor,
       coalesce(sum(l.fee_minor) FILTER (WHERE l.kind <> 'payout'), 0)::bigint AS fee_minor,
       coalesce(sum(-l.net_minor) FILTER (WHERE l.kind = 'payout'), 0)::bigint AS payout_minor
  FROM settlement_line AS l
  LEFT JOIN reconciliation_break AS k ON k.file_id = l.file_id AND k.line_no = l.line_no
 WHERE l.file_id = $1 GROUP BY l.currency ORDER BY l.currency
"""
_BROKEN = """
SELECT break_id, kind, file_id, line_no, batch, operation_id, currency, expected_minor, stated_minor, suspense_minor,
       detail, opened_at, closed_at, closed_by, reason
  FROM reconciliation_break WHERE file_id = $1 ORDER BY line_no NULLS FIRST, break_id
"""
_FILE = "SELECT provider, format, name, lines, received_at FROM settlement_file WHERE file_id = $1"


class CurrencyTotal(msgspec.Struct, frozen=True, kw_only=True):
    """One currency of a file, in minor units.

    `matched`: lines that agreed with the books; the others are breaks, of which `settled` are closed.
    """

    currency: str
    lines: int
    matched: int
    settled: int
    gross_minor: int
    fee_minor: int
    payout_minor: int


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """Where a file and the books differ. `expected_minor` is ours, `stated_minor` the file's.

    `suspense_minor` of it stands in the suspense account until the break is closed.
    """

    break_id: UUID
    kind: str
    file_id: UUID | None
    line_no: int | None
    batch: str | None
    operation_id: UUID | None
    currency: str | None
    expected_minor: int | None
    stated_minor: int | None
    suspense_minor: int
    detail: str
    opened_at: datetime
    closed_at: datetime | None
    closed_by: str | None
    reason: str | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one file. `is_repeat`: it had been taken before, and nothing was done now."""

    file_id: UUID
    provider: str
    format: str
    name: str
    lines: int
    received_at: datetime
    is_repeat: bool
    totals: Sequence[CurrencyTotal]
    mismatches: Sequence[Break]

    @property
    def matched(self) -> int:
        """How many lines agree with the books."""
        return sum(total.matched for total in self.totals)

    @property
    def is_clean(self) -> bool:
        """Whether no break of it is open."""
        return all(each.closed_at is not None for each in self.mismatches)


async def read_report(store: Store, file_id: UUID, *, is_repeat: bool) -> Report:
    """Read what became of a file that was taken."""
    async with store.pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL statement_timeout = 0")
        file = await connection.fetchrow(_FILE, file_id)
        totals = await connection.fetch(_COUNTED, file_id)
        mismatches = await read_breaks(connection, file_id)
    if file is None:
        raise LookupError(f"no file {file_id} was taken")
    return Report(
        file_id=file_id,
        **dict(file),
        is_repeat=is_repeat,
        totals=[CurrencyTotal(**dict(row)) for row in totals],
        mismatches=mismatches,
    )


async def read_breaks(connection: Any, file_id: UUID) -> list[Break]:
    """Read a file's breaks, open and closed, in the order of its lines."""
    return [Break(**dict(row)) for row in await connection.fetch(_BROKEN, file_id)]
