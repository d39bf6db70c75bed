"""What a reconciliation found: for a person to read, and as JSON for a program."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from coatcheck.reconciliation.files import BANK
from coatcheck.states import Mode
from coatcheck.store import Store

RECONCILIATION, BREAK = "rec", "brk"  # the prefixes of their printed ids
MISMATCHES_MOST: Final = 1_000  # that a report holds; `breaks_of` has all
_AT_ONCE: Final = 2_000
_NOBODY: Final = UUID(int=0)

# A line may have a break of its verdict, and others beside it: of its fee, or of how long it took.
_COUNTED: Final = """
SELECT l.currency, count(*) FILTER (WHERE l.verdict <> 'payout') AS lines,
       count(*) FILTER (WHERE l.verdict IN ('matched', 'fee', 'conversion')) AS matched,
       count(*) FILTER (WHERE k.closed_at IS NOT NULL) AS settled,
       coalesce(sum(l.gross_minor) FILTER (WHERE l.kind <> 'payout'), 0)::bigint AS gross_minor,
       coalesce(sum(l.fee_minor) FILTER (WHERE l.kind <> 'payout'), 0)::bigint AS fee_minor,
       coalesce(sum(-l.net_minor) FILTER (WHERE l.kind = 'payout'), 0)::bigint AS payout_minor
  FROM settlement_line AS l
  LEFT JOIN reconciliation_break AS k ON k.file_id = l.file_id AND k.line_no = l.line_no AND k.kind = l.verdict
 WHERE l.file_id = $1 GROUP BY l.currency ORDER BY l.currency
"""
_COUNTED_AT_A_BANK: Final = """
SELECT l.currency, count(*) AS lines, count(*) FILTER (WHERE l.verdict = 'matched') AS matched,
       count(*) FILTER (WHERE k.closed_at IS NOT NULL) AS settled, sum(l.amount_minor)::bigint AS gross_minor,
       0::bigint AS fee_minor,
       coalesce(sum(l.amount_minor) FILTER (WHERE l.verdict = 'matched'), 0)::bigint AS payout_minor
  FROM bank_line AS l
  LEFT JOIN reconciliation_break AS k ON k.file_id = l.file_id AND k.line_no = l.line_no AND k.kind = l.verdict
 WHERE l.file_id = $1 GROUP BY l.currency ORDER BY l.currency
"""
_BROKEN: Final = """
SELECT break_id, kind, file_id, line_no, batch, operation_id, currency, expected_minor, stated_minor, suspense_minor,
       detail, opened_at, closed_at, closed_by, reason
  FROM reconciliation_break
 WHERE file_id = $1 AND (coalesce(line_no, 0), break_id) > ($2, $3)
 ORDER BY coalesce(line_no, 0), break_id
 LIMIT $4
"""
_FILE: Final = """
SELECT f.file_id, f.provider, f.format, f.name, f.lines, f.received_at, f.received_by, b.breaks, b.open_breaks
  FROM settlement_file AS f
 CROSS JOIN LATERAL (SELECT count(*) AS breaks, count(*) FILTER (WHERE k.closed_at IS NULL) AS open_breaks
                       FROM reconciliation_break AS k WHERE k.file_id = f.file_id) AS b
"""
_OF_ONE: Final = f"{_FILE} WHERE f.file_id = $1"
_OF_MANY: Final = f"""
{_FILE}
 WHERE f.shop_id = $1 AND f.mode = $2 AND (f.received_at, f.file_id) < ($3, $4)
 ORDER BY f.received_at DESC, f.file_id DESC
 LIMIT $5
"""


class CurrencyTotal(msgspec.Struct, frozen=True, kw_only=True):
    """One currency of a file, in minor units.

    `matched`: lines that agreed with the books; the others are breaks, of which `settled` are closed. Of a bank's
    statement `gross_minor` is what was booked, and `payout_minor` the payouts among it that were due.
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


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was taken, and how many breaks it has. `provider` is `bank` for a bank's statement."""

    file_id: UUID
    provider: str
    format: str
    name: str
    lines: int
    received_at: datetime
    received_by: str
    breaks: int
    open_breaks: int

    @property
    def is_of_a_bank(self) -> bool:
        """Whether it is a bank's statement."""
        return self.provider == BANK

    @property
    def is_clean(self) -> bool:
        """Whether no break of it is open."""
        return self.open_breaks == 0


class Report(Summary, frozen=True, kw_only=True):
    """What became of one file. `is_repeat`: it had been taken before, and nothing was done now.

    `mismatches`: its breaks in the order of its lines, at most the first MISMATCHES_MOST of `breaks`.
    """

    is_repeat: bool
    totals: Sequence[CurrencyTotal]
    mismatches: Sequence[Break]

    @property
    def matched(self) -> int:
        """How many lines agree with the books."""
        return sum(total.matched for total in self.totals)


async def read_report(store: Store, file_id: UUID, *, is_repeat: bool, most: int = MISMATCHES_MOST) -> Report:
    """Read what became of a file that was taken. Raises LookupError."""
    async with store.pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL statement_timeout = 0")
        file = await connection.fetchrow(_OF_ONE, file_id)
        if file is None:
            raise LookupError(f"no file {file_id} was taken")
        counted = _COUNTED_AT_A_BANK if file["provider"] == BANK else _COUNTED
        totals = await connection.fetch(counted, file_id)
        mismatches = await _breaks_after(connection, file_id, None, most)
    return Report(
        **dict(file), is_repeat=is_repeat, totals=[CurrencyTotal(**dict(row)) for row in totals], mismatches=mismatches
    )


async def whose_file(store: Store, file_id: UUID) -> tuple[UUID, Mode] | None:
    """Say of which shop and mode a file is; None when it was not taken."""
    row = await store.pool.fetchrow("SELECT shop_id, mode FROM settlement_file WHERE file_id = $1", file_id)
    return None if row is None else (row["shop_id"], Mode(row["mode"]))


async def find_files(
    store: Store, shop_id: UUID, mode: Mode, *, older_than: tuple[datetime, UUID], limit: int
) -> list[Summary]:
    """Find the files of a shop and mode, newest first, that were taken before a place in that order."""
    rows = await store.pool.fetch(_OF_MANY, shop_id, mode.value, *older_than, limit)
    return [Summary(**dict(row)) for row in rows]


async def breaks_of(store: Store, file_id: UUID) -> AsyncIterator[Sequence[Break]]:
    """Read all breaks of a file in the order of its lines, piece by piece; no connection is held in between."""
    last: Break | None = None
    while True:
        found = await _breaks_after(store.pool, file_id, last, _AT_ONCE)
        if found:
            yield found
        if len(found) < _AT_ONCE:
            return
        last = found[-1]


async def _breaks_after(connection: Any, file_id: UUID, last: Break | None, most: int) -> list[Break]:
    place = (-1, _NOBODY) if last is None else (last.line_no or 0, last.break_id)
    return [Break(**dict(row)) for row in await connection.fetch(_BROKEN, file_id, *place, most)]
