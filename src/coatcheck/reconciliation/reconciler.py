"""Takes a settlement file: reads it strictly, compares it with the books, and posts what the PSP has kept and paid out.

All in one transaction: a file that cannot be read to its end, or does not come through, has never happened.
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.ids import OPERATION, account_id_of, derive_id, parse_id, time_ordered_ids
from coatcheck.ledger import (
    AccountBook,
    AccountName,
    Ledger,
    Transfer,
    TransferKind,
    fx,
    platform_psp_fees,
    psp_payouts_in_transit,
    psp_receivable,
    suspense,
)
from coatcheck.reconciliation.booked import TELL_OF_BREAKS, booked
from coatcheck.reconciliation.files import Candidate, Progress, Source, chunks_of, recognised
from coatcheck.reconciliation.implied import IMPLIED, with_implied_payouts
from coatcheck.reconciliation.lines import (
    ControlTotal,
    FileRefusedError,
    Format,
    Item,
    LineKind,
    SettlementLine,
)
from coatcheck.reconciliation.reading import decoded
from coatcheck.reconciliation.report import Report, read_report
from coatcheck.reconciliation.usual import Usual
from coatcheck.store import Store

_LINES_AT_ONCE: Final = 10_000
# How much later a file may tell of something, beyond its own last line, before we ask where it is (settlement dates of
# real merchants are off by a day or two, seldom by more).
DRIFT: Final = timedelta(days=5)
_COMPARED: Final = (LineKind.CHARGE, LineKind.REFUND, LineKind.REFUND_RETURNED)
_INCOMING: Final = """
CREATE TEMP TABLE incoming_line (
    line_no integer, kind text, batch text, reference text, provider_reference text, charge_reference text,
    operation_id uuid, occurred_at timestamptz, currency text, gross_minor bigint, fee_minor bigint, net_minor bigint,
    asked_minor bigint, asked_currency text
) ON COMMIT DROP;
GRANT SELECT ON incoming_line TO PUBLIC  -- of this session alone: the functions that compare run as the schema's owner
"""
_COLUMNS: Final = (
    *("line_no", "kind", "batch", "reference", "provider_reference", "charge_reference", "operation_id"),
    *("occurred_at", "currency", "gross_minor", "fee_minor", "net_minor", "asked_minor", "asked_currency"),
)
_TAKE: Final = "SELECT take_settlement_file($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
# The reason of breaks that were closed because they are parts of one record, told in several files.
IN_PARTS: Final = "its parts, told in several files, come to its amount together"
_TAKE_APART: Final = "SELECT * FROM take_parts_apart($1, $2, $3, $4, $5)"
_BREAK_TOTALS: Final = "SELECT break_control_totals($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_UNUSUAL: Final = "SELECT break_unusual($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"


class _Taken(msgspec.Struct):
    """What reading a file has come to so far."""

    lines: int = 0
    implied: int = 0  # of them, those that the file does not have
    broken: list[ControlTotal] = msgspec.field(default_factory=list)
    currencies: set[str] = msgspec.field(default_factory=set)  # of the PSP's balance, or in which buyers were asked
    converted: set[str] = msgspec.field(default_factory=set)  # out of these currencies, or into them


class Reconciler:
    """Compares what PSPs' files say with the books."""

    def __init__(self, store: Store, clock: Clock, usual: Usual | None = None) -> None:
        self._usual = usual or Usual()
        self._store = store
        self._clock = clock
        self._ledger = Ledger(store)
        self._accounts = AccountBook(store, clock)

    async def take(self, source: Source, progress: Progress = lambda _read, _size: None) -> Report:
        """Take a PSP's settlement file and compare it with the books; again it changes nothing.

        Posts payouts, fees and what is unexplained. Opens breaks. Raises FileRefusedError, and then nothing of the
        file was taken. Idempotent on the file's content. Locks: the provider's files of this shop and mode, accounts.
        """
        file = await asyncio.to_thread(recognised, source)
        if file.form.provider is None:
            raise FileRefusedError(f"it is a bank's statement ({file.form.name}), not a PSP's settlement file")
        file_id = file.file_id
        if await self._store.pool.fetchval("SELECT true FROM settlement_file WHERE file_id = $1", file_id):
            return await read_report(self._store, file_id, is_repeat=True)
        async with self._store.pool.acquire() as connection, connection.transaction():
            is_new = await self._take(connection, file, progress)
        return await read_report(self._store, file_id, is_repeat=not is_new)

    async def _take(self, connection: Any, file: Candidate, progress: Progress) -> bool:
        at, file_id, world = self._clock.now(), file.file_id, file.world
        for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute(f"SET LOCAL {setting} = 0")
        await connection.execute(_INCOMING)
        taken = await _load(connection, file.form, file.source.path, progress)
        words = file.form.name, file.source.name, file.digest, taken.lines - taken.implied, file.source.brought_by
        if not await connection.fetchval(_TAKE, at, file_id, *world, *words):
            return False  # somebody else has brought it meanwhile
        apart = await connection.fetch(_TAKE_APART, at, *world, IN_PARTS)
        await connection.execute("SELECT match_settlement_lines($1, $2, $3, $4, $5)", at, file_id, *world)
        await self._find_unusual(connection, file)
        await self._open_accounts(file, taken)
        await connection.execute("SELECT match_dispute_lines($1, $2, $3, $4, $5)", at, file_id, *world)
        if taken.broken:
            columns = [
                [getattr(total, name) for total in taken.broken]
                for name in ("what", "batch", "currency", "stated", "counted")
            ]
            await connection.execute(_BREAK_TOTALS, at, file_id, *world, *columns)
        await self._post(connection, file, apart)
        await connection.execute("SELECT note_file($1, $2, $3, $4, $5)", at, file_id, *world)
        for unsettled in ("break_unsettled", "break_unsettled_movements"):
            await connection.execute(f"SELECT {unsettled}($1, $2, $3, $4, $5, $6)", at, file_id, *world, DRIFT)
        await connection.execute(TELL_OF_BREAKS, at, file_id, *world)
        return True

    async def _find_unusual(self, connection: Any, file: Candidate) -> None:
        """Open breaks of what agrees and is unusual: another fee than the PSP's schedule says, or settled late."""
        fees, delay = self._usual.fees.get(file.provider, ()), self._usual.delays.get(file.provider)
        if not fees and delay is None:
            return
        columns = [[getattr(fee, name) for fee in fees] for name in ("currency", "rate_ppm", "fixed_minor")]
        await connection.execute(
            _UNUSUAL,
            *(self._clock.now(), file.file_id, *file.world),
            *(*columns, self._usual.fee_tolerance_minor, delay),
        )

    async def _open_accounts(self, file: Candidate, taken: _Taken) -> None:
        """Open what will be posted to, on a connection of its own: before this transaction has changed an account."""
        provider, source = file.provider, file.source
        names = (
            *(psp_receivable(provider), psp_payouts_in_transit(provider)),
            *(platform_psp_fees(), suspense(provider)),
        )
        wanted = [(name, currency) for name in names for currency in sorted(taken.currencies)]
        wanted += [(fx(provider), currency) for currency in sorted(taken.converted)]
        await self._accounts.ensure(source.shop_id, source.mode, wanted)

    async def _post(self, connection: Any, file: Candidate, apart: Sequence[asyncpg.Record]) -> None:
        """Post what the file changes: per batch and currency, what was paid out, kept, converted, and is unexplained.

        `apart`: breaks of earlier files that are open again.
        """
        at, source, file_id = self._clock.now(), file.source, file.file_id
        rows = await connection.fetch("SELECT * FROM settle_batches($1, $2, $3, $4)", file_id, *file.world)
        transfers = [transfer for row in rows for transfer in _transfers_of(file, row)]
        transfers += [_taken_apart(file, row) for row in apart]
        if transfers:
            await self._ledger.post_within(connection, transfers, at)
        (event_id,) = time_ordered_ids(at, 1)
        told = msgspec.json.encode(await booked(connection, file_id) | {"transfers": transfers}).decode()
        kind = EventKind.SETTLEMENT_BOOKED.value
        await connection.execute(
            self._store.queries["event_write"],
            *(file_id, event_id, kind, source.shop_id, source.mode.value, at, told),
        )


def _transfers_of(file: Candidate, row: asyncpg.Record) -> Iterator[Transfer]:
    """Say what a batch's difference moves. A negative amount moves the other way."""
    source, provider, file_id = file.source, file.provider, file.file_id
    receivable = psp_receivable(provider)
    moves: Sequence[tuple[TransferKind, AccountName, AccountName, int]] = (
        (TransferKind.PSP_PAYOUT, psp_payouts_in_transit(provider), receivable, row["payout_minor"]),
        (TransferKind.PSP_FEE, platform_psp_fees(), receivable, row["fee_minor"]),
        (TransferKind.UNEXPLAINED, receivable, suspense(provider), row["unexplained_minor"]),
        (TransferKind.CONVERSION, receivable, fx(provider), row["converted_minor"]),
    )
    for kind, debit, credit, amount_minor in moves:
        if amount_minor == 0:
            continue
        debit_name, credit_name = (debit, credit) if amount_minor > 0 else (credit, debit)
        ids = [
            account_id_of(source.shop_id, source.mode, name.name, row["currency"]) for name in (debit_name, credit_name)
        ]
        yield Transfer(
            transfer_id=derive_id("settlement", file_id.hex, row["batch"], row["currency"], kind.value),
            kind=kind.value,
            debit_account_id=ids[0],
            credit_account_id=ids[1],
            amount_minor=abs(amount_minor),
            currency=row["currency"],
            subject_id=file_id,
        )


def _taken_apart(file: Candidate, row: asyncpg.Record) -> Transfer:
    """Say what a break that is open again puts back into suspense: never zero, for a part differs from its record."""
    receivable, strange = psp_receivable(file.provider), suspense(file.provider)
    debit, credit = (receivable, strange) if row["suspense_minor"] > 0 else (strange, receivable)
    source = file.source
    return Transfer(
        transfer_id=derive_id("taken apart", row["break_id"].hex, str(row["moved"])),
        kind=TransferKind.UNEXPLAINED.value,
        debit_account_id=account_id_of(source.shop_id, source.mode, debit.name, row["currency"]),
        credit_account_id=account_id_of(source.shop_id, source.mode, credit.name, row["currency"]),
        amount_minor=abs(row["suspense_minor"]),
        currency=row["currency"],
        subject_id=row["break_id"],
    )


async def _load(connection: Any, form: Format, path: Path, progress: Progress) -> _Taken:
    """Read the file into the session's own table, a piece at a time.

    The reading is done in a thread, and the next piece is read while the database takes the one before.
    """
    items = with_implied_payouts(form, form.read(decoded(chunks_of(path, progress))))
    taken = _Taken()
    coming = asyncio.create_task(asyncio.to_thread(_next_records, items, taken))
    try:
        while records := await coming:
            coming = asyncio.create_task(asyncio.to_thread(_next_records, items, taken))
            await connection.copy_records_to_table("incoming_line", records=records, columns=_COLUMNS)
    finally:
        await asyncio.gather(coming, return_exceptions=True)
    return taken


def _next_records(items: Iterator[Item], taken: _Taken) -> list[tuple[object, ...]]:
    records: list[tuple[object, ...]] = []
    for item in items:
        if isinstance(item, SettlementLine):
            asked = _asked_of(item)
            records.append((*_record_of(item), *asked))
            taken.currencies.add(item.currency)
            taken.implied += item.description is IMPLIED
            if asked[1] is not None:
                taken.currencies.add(asked[1])
                taken.converted |= {asked[1], item.currency}
            if item.kind is LineKind.CONVERSION:
                taken.converted.add(item.currency)
            if len(records) == _LINES_AT_ONCE:
                break
        elif isinstance(item, ControlTotal) and not item.holds:
            taken.broken.append(item)
    taken.lines += len(records)
    return records


def _record_of(line: SettlementLine) -> tuple[object, ...]:
    reference = line.reference
    return (
        line.line_no,
        line.kind.value,
        line.batch,
        reference,
        line.provider_reference,
        line.charge_reference,
        None if reference is None else parse_id(OPERATION, reference),
        line.occurred_at,
        line.currency,
        line.gross_minor,
        line.fee_minor,
        line.net_minor,
    )


def _asked_of(line: SettlementLine) -> tuple[int, str] | tuple[None, None]:
    """Say what the buyer was asked for in another currency than the line's: of charges and refunds alone."""
    minor, currency = line.asked_minor, line.asked_currency
    if line.kind not in _COMPARED or minor is None or currency is None or currency == line.currency:
        return None, None
    return minor, currency
