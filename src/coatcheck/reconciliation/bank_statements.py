"""Takes a bank's statement: finds the payouts of PSPs, and those to sellers that our account there has paid.

All in one transaction, like a settlement file. What is no payout that we wait for stands in suspense, and is a break.
If its payout is told of later, it is found then: which of the two files comes first makes no difference to the books.
"""

import asyncio
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.ids import OPERATION, PAYOUT, PAYOUT_RUN, account_id_of, derive_id, parse_id, time_ordered_ids
from coatcheck.ledger import (
    AccountBook,
    AccountName,
    Ledger,
    Transfer,
    TransferKind,
    bank,
    psp_payouts_in_transit,
    suspense,
)
from coatcheck.reconciliation.booked import TELL_OF_BREAKS, booked
from coatcheck.reconciliation.closing import Closing
from coatcheck.reconciliation.files import BANK, Candidate, Progress, Source, chunks_of, recognised
from coatcheck.reconciliation.lines import BankLine, ControlTotal, FileRefusedError, Item
from coatcheck.reconciliation.reading import decoded
from coatcheck.reconciliation.report import Report, read_report
from coatcheck.states import Mode
from coatcheck.store import Store

_INCOMING: Final = """
CREATE TEMP TABLE incoming_entry (
    line_no integer PRIMARY KEY, statement text, account text, booked_on date, currency text, amount_minor bigint,
    bank_reference text, reference_list text[], named_ids uuid[], opening_minor bigint
) ON COMMIT DROP;
GRANT SELECT ON incoming_entry TO PUBLIC  -- of this session alone, for the functions that compare
"""
_ENTRY: Final = (
    *("line_no", "statement", "account", "booked_on", "currency", "amount_minor", "bank_reference", "reference_list"),
    *("named_ids", "opening_minor"),
)
_TAKE: Final = "SELECT take_settlement_file($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_BREAK_TOTALS: Final = "SELECT break_control_totals($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_ARE_OPEN: Final = """
SELECT EXISTS (SELECT FROM reconciliation_break
                WHERE shop_id = $1 AND mode = $2 AND provider = 'bank' AND closed_at IS NULL
                  AND kind IN ('unexplained', 'amount'))
"""
_OVER: Final = "SELECT * FROM breaks_that_are_payouts($1, $2)"
_GONE: Final = "SELECT gone_breaks($1)"
_STATEMENTS: Final = """
SELECT account, currency, statement, version FROM bank_statement WHERE file_id = $1 ORDER BY 1, 2, 3
"""
_MATCH_AGAIN: Final = "SELECT * FROM match_open_entries($1, $2, $3)"
BY_A_FILE: Final = "coatcheck"
_OF_PSP: Final = "psp_payout"
# Banks pass on neither small letters nor underscores for certain: SWIFT's set of characters has no underscore.
_OURS: Final = re.compile(rf"(?<![a-z0-9])({PAYOUT}|{PAYOUT_RUN}|{OPERATION})[^a-z0-9]?([a-z2-7]{{26}})(?![a-z0-9])")
_LINES_AT_ONCE: Final = 2_000

StatementReport = Report  # one form for both


class _Taken(msgspec.Struct):
    """What reading a statement has come to so far."""

    lines: int = 0
    broken: list[ControlTotal] = msgspec.field(default_factory=list)


class BankStatements:
    """Compares banks' statements with what PSPs have paid out."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ledger = Ledger(store)
        self._accounts = AccountBook(store, clock)
        self._closing = Closing(store, clock)

    async def take(self, source: Source, progress: Progress = lambda _read, _size: None) -> StatementReport:
        """Take a bank's statement; again it changes nothing.

        Posts what has arrived, per account and currency; of a statement that was issued again, what it changes. Opens
        breaks, and closes those of entries that are gone, or have their payout now. Raises FileRefusedError, and then
        nothing of it was taken. Idempotent on its content. Locks: the statements of this shop and mode, accounts.
        """
        file = await asyncio.to_thread(recognised, source)
        if file.form.provider is not None:
            raise FileRefusedError(f"it is a settlement file of {file.provider}, not a bank's statement")
        if await self._store.pool.fetchval("SELECT true FROM settlement_file WHERE file_id = $1", file.file_id):
            return await read_report(self._store, file.file_id, is_repeat=True)
        async with self._store.pool.acquire() as connection, connection.transaction():
            is_new = await self._take(connection, file, progress)
        return await read_report(self._store, file.file_id, is_repeat=not is_new)

    async def _take(self, connection: Any, file: Candidate, progress: Progress) -> bool:
        at, source = self._clock.now(), file.source
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(f"SET LOCAL {setting} = 0")
        await connection.execute(_INCOMING)
        taken = await _load(connection, file, progress)
        words = file.form.name, source.name, file.digest, taken.lines, source.brought_by
        await connection.execute("ANALYZE incoming_entry")
        if not await connection.fetchval(_TAKE, at, file.file_id, *file.world, *words):
            return False  # somebody else has brought it meanwhile
        rows = await connection.fetch(
            "SELECT * FROM match_bank_lines($1, $2, $3, $4)", at, file.file_id, source.shop_id, source.mode.value
        )
        if taken.broken:
            names = ("what", "batch", "currency", "stated", "counted")
            columns = [[getattr(total, name) for total in taken.broken] for name in names]
            await connection.execute(_BREAK_TOTALS, at, file.file_id, *file.world, *columns)
        await self._post(connection, file, rows)
        await connection.execute("SELECT note_file($1, $2, $3, $4, $5)", at, file.file_id, *file.world)
        await connection.execute(TELL_OF_BREAKS, at, file.file_id, *file.world)
        gone = [row[0] for row in await connection.fetch(_GONE, file.file_id)]
        await self._closing.close_within(connection, gone, BY_A_FILE, "the statement was issued again")
        await self._close(connection, await connection.fetch(_OVER, source.shop_id, source.mode.value))
        return True

    async def match_again(self, shop_id: UUID, mode: Mode) -> int:
        """Find the payouts of entries that came before anybody told of them; returns how many breaks that closed.

        Posts what stood in suspense for them to the payouts in transit. What people have explained, or are at, is left
        alone. Idempotent; to be called after any file. Locks: the statements of this shop and mode, breaks, accounts.
        """
        if not await self._store.pool.fetchval(_ARE_OPEN, shop_id, mode.value):
            return 0  # as after most files
        async with self._store.pool.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            return await self._close(
                connection, await connection.fetch(_MATCH_AGAIN, self._clock.now(), shop_id, mode.value)
            )

    async def _close(self, connection: Any, rows: Sequence[asyncpg.Record]) -> int:
        closed = 0
        for (kind, provider, why), same in groupby(rows, key=lambda row: (row["kind"], row["provider"], row["reason"])):
            ids, target = [row["break_id"] for row in same], _waited_for_on(kind, provider)
            closed += await self._closing.close_within(connection, ids, BY_A_FILE, why, target)
        return closed

    async def _post(self, connection: Any, file: Candidate, rows: list[asyncpg.Record]) -> None:
        at, source = self._clock.now(), file.source
        wanted = [
            (name, row["currency"]) for row in rows for _, name, other, _ in _moves_of(row) for name in (name, other)
        ]
        await self._accounts.ensure(source.shop_id, source.mode, wanted)
        transfers = [transfer for row in rows for transfer in _transfers_of(file, row)]
        if transfers:
            await self._ledger.post_within(connection, transfers, at)
        (event_id,) = time_ordered_ids(at, 1)
        statements = [dict(row) for row in await connection.fetch(_STATEMENTS, file.file_id)]
        body = await booked(connection, file.file_id) | {"statements": statements, "transfers": transfers}
        told = msgspec.json.encode(body).decode()
        kind, world = EventKind.SETTLEMENT_BOOKED.value, (source.shop_id, source.mode.value)
        await connection.execute(self._store.queries["event_write"], *(file.file_id, event_id, kind, *world, at, told))


async def _load(connection: Any, file: Candidate, progress: Progress) -> _Taken:
    """Read the statement into the session's own tables, a piece at a time; the reading itself is done in a thread."""
    items = file.form.read(decoded(chunks_of(file.source.path, progress)))
    taken = _Taken()
    while lines := await asyncio.to_thread(_next_lines, items, taken):
        await connection.copy_records_to_table("incoming_entry", records=map(_record_of, lines), columns=_ENTRY)
    return taken


def _next_lines(items: Iterator[Item], taken: _Taken) -> list[BankLine]:
    lines: list[BankLine] = []
    for item in items:
        if isinstance(item, BankLine):
            lines.append(item)
            if len(lines) == _LINES_AT_ONCE:
                break
        elif isinstance(item, ControlTotal) and not item.holds:
            taken.broken.append(item)
    taken.lines += len(lines)
    return lines


def _record_of(line: BankLine) -> tuple[object, ...]:
    return (
        *(line.line_no, line.statement, line.account, line.booked_on, line.currency, line.amount_minor),
        *(line.bank_reference, list(line.references), _named_in(line.references), line.opening_minor),
    )


def _named_in(references: Sequence[str]) -> list[UUID]:
    """Find what is named of ours, as a payout's provider passes it on: the payout, its operation or its run."""
    named = (each for text in references for each in _OURS.findall(text.lower()))
    found = (parse_id(prefix, f"{prefix}_{letters}") for prefix, letters in named)
    return list(dict.fromkeys(each for each in found if each is not None))


def _waited_for_on(kind: str, provider: str) -> AccountName:
    """Name the account on which a payout stands until a bank's statement has it."""
    return psp_payouts_in_transit(provider) if kind == _OF_PSP else bank(provider)


def _moves_of(row: asyncpg.Record) -> Iterator[tuple[TransferKind, AccountName, AccountName, int]]:
    """Say what has arrived or left: at the bank, by a PSP's payouts, by those to sellers, or by nobody that we know."""
    account = bank(row["account"])
    if row["confirmed_minor"]:
        moved = TransferKind.BANK_CREDIT if row["kind"] == _OF_PSP else TransferKind.BANK_DEBIT
        yield moved, account, _waited_for_on(row["kind"], row["provider"]), row["confirmed_minor"]
    if row["strange_minor"]:
        yield TransferKind.UNEXPLAINED, account, suspense(BANK), row["strange_minor"]


def _transfers_of(file: Candidate, row: asyncpg.Record) -> Iterator[Transfer]:
    source, currency = file.source, row["currency"]
    for kind, debit, credit, amount_minor in _moves_of(row):
        names = (debit, credit) if amount_minor > 0 else (credit, debit)
        ids = [account_id_of(source.shop_id, source.mode, name.name, currency) for name in names]
        yield Transfer(
            transfer_id=derive_id(
                "statement", file.file_id.hex, row["account"], currency, row["kind"] or "", credit.name
            ),
            kind=kind.value,
            debit_account_id=ids[0],
            credit_account_id=ids[1],
            amount_minor=abs(amount_minor),
            currency=currency,
            subject_id=file.file_id,
        )
