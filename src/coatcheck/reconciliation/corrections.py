"""Corrections: what a settlement file settles that we did not know, by the same way in as any other answer of the PSP.

The third step of the ladder: an operation that neither a retry nor a look-up could decide is decided by the file; what
the books have never had is taken over; and what neither the files nor the PSP have ever had is given up.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.config import CORRECTABLE_KINDS
from coatcheck.executor import NOT_FOUND, Executor, window_is_open
from coatcheck.ids import OPERATION, parse_id
from coatcheck.operations import NOT_AT_PROVIDER, Operation, Operations, Standing
from coatcheck.providers.outcome import Outcome, OutcomeKind, ToldBy
from coatcheck.providers.protocol import Found, NotListedError, Registry
from coatcheck.reconciliation.adoption import Adoption, ChargedOrder, candidate_of
from coatcheck.reconciliation.closing import Closing
from coatcheck.reconciliation.lines import LineKind
from coatcheck.reconciliation.reconciler import DRIFT, IN_PARTS
from coatcheck.refunds import Refunds
from coatcheck.states import Mode, OperationKind, OperationStatus
from coatcheck.store import Store

BY_THE_FILE = "coatcheck"
_THE_WAY_BACK: Final = (LineKind.REFUND_RETURNED, LineKind.SELLER_PAYOUT_RETURNED)
# What a file tells of an operation, and whether another line tells that the money came back.
_OF_STATUS = """
SELECT k.break_id, k.operation_id, l.kind, l.provider_reference, f.name, l.line_no,
       EXISTS (SELECT FROM settled_record AS r
                WHERE r.operation_id = k.operation_id
                  AND r.kind IN ('refund_returned', 'seller_payout_returned')) AS came_back
  FROM reconciliation_break AS k
  JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
  JOIN settlement_file AS f ON f.file_id = k.file_id
 WHERE k.file_id = $1 AND k.kind = 'status' AND k.closed_at IS NULL
   AND operations_told_as(l.kind) IS NOT NULL
"""
# A charge comes before what was given back of it.
_UNRECORDED = """
SELECT k.break_id, k.shop_id, k.mode, k.provider, k.file_id, k.line_no, k.currency, k.stated_minor, l.kind,
       l.provider_reference, l.charge_reference, f.name
  FROM reconciliation_break AS k
  JOIN settlement_line AS l ON l.file_id = k.file_id AND l.line_no = k.line_no
  JOIN settlement_file AS f ON f.file_id = k.file_id
 WHERE k.file_id = $1 AND k.kind = 'missing_here' AND k.closed_at IS NULL AND l.kind IN ('charge', 'refund')
   AND l.provider_reference IS NOT NULL
 ORDER BY l.kind, k.line_no
"""
# The PSP's fee is booked with its batch, as the file says: nothing of such a break stands in suspense.
_UNUSUAL_FEES: Final = """
SELECT break_id FROM reconciliation_break WHERE file_id = $1 AND kind = 'fee' AND closed_at IS NULL
"""
_CLAIM: Final = "SELECT claim_adopted_line($1, $2, $3)"
_ADOPTED_ORDER: Final = """
SELECT o.order_id, o.shop_id, o.mode
  FROM operation AS c
  JOIN payment_order AS o ON o.order_id = c.order_id
  JOIN adopted_payment AS a ON a.payment_id = o.payment_id AND a.completed_at IS NULL
 WHERE c.operation_id = $1
"""
_ABSENT: Final = "SELECT operation_id, first_sent_at, covered_until, files FROM absent_operations($1, $2, $3, $4, $5)"
_NOT_FOUND_BEFORE: Final = """
SELECT at FROM event
 WHERE subject_id = $1 AND body ->> 'operation_id' = $2::uuid::text AND body ->> 'cause' = $3 ORDER BY event_id
"""

log = structlog.get_logger("coatcheck.reconciliation")


class _Things(NamedTuple):
    """What a line of a file is about at the PSP: the charge, and what was done with it where that is the line's."""

    charge: Found
    act: Found | None

    @property
    def told(self) -> Found:
        """The thing that the line tells of."""
        return self.charge if self.act is None else self.act


class Corrections:
    """Brings the books to what a file has proven.

    `unrecorded`: what becomes of a charge that the PSP has and the books never had: adopt, refund or queue. Without an
    `adoption` it waits for a person.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        operations: Operations,
        executor: Executor,
        *,
        adoption: Adoption | None = None,
        refunds: Refunds | None = None,
        unrecorded: str = "queue",
    ) -> None:
        self._store = store
        self._clock = clock
        self._operations = operations
        self._executor = executor
        self._adoption = adoption
        self._refunds = refunds
        self._unrecorded = unrecorded
        self._closing = Closing(store, clock)

    async def correct(self, file_id: UUID, kinds: Collection[str] = CORRECTABLE_KINDS) -> int:
        """Bring the books to what a file has proven about breaks of some kinds; returns how many that closed.

        `status`: what is undecided here and charged or refunded by the file is decided. `missing_here`: what the books
        never had is adopted, or adopted and refunded, by policy (hazard H6). `fee`: what the PSP has kept is its fee,
        whatever its schedule says. Idempotent: what could not be done is left open, and done at the next call.
        """
        closed = await self._decide_by(file_id) if "status" in kinds else 0
        closed += await self._take_over(file_id) if "missing_here" in kinds else 0
        return closed + (await self._accept_fees(file_id) if "fee" in kinds else 0)

    async def _decide_by(self, file_id: UUID) -> int:
        """Decide what is undecided; ask about what was decided otherwise: its file alone does not do (hazard A9)."""
        rows = await self._store.pool.fetch(_OF_STATUS, file_id)
        if not rows:  # as with most files
            return 0
        operation_ids = [row["operation_id"] for row in rows]
        before = await self._operations.stand(operation_ids)
        undecided = [row for row in rows if not before[row["operation_id"]].operation.status.is_decided]
        await self._decide([row for row in undecided if row["kind"] not in _THE_WAY_BACK])
        # Of what has a line for each way, the first line may just have decided what the second one contradicts.
        now = await self._operations.stand(operation_ids) if undecided else before
        differing = [row for row in rows if _contradicts(row, now[row["operation_id"]])]
        reopened = await self._operations.reopen([row["operation_id"] for row in differing], "a settlement file has it")
        if reopened:
            await self._executor.start(reopened)
        after = await self._operations.stand(operation_ids)
        agreeing = [row["break_id"] for row in rows if _agrees(row, after[row["operation_id"]])]
        return await self.close(agreeing, BY_THE_FILE, "the operation is settled as the file says")

    async def _decide(self, rows: Sequence[asyncpg.Record]) -> None:
        told = {row["operation_id"]: row for row in rows}
        for operation in await self._operations.claim_named(list(told)) if told else []:
            await self._executor.settle(operation, _outcome_of(operation, told[operation.intent.operation_id]))

    async def _accept_fees(self, file_id: UUID) -> int:
        rows = await self._store.pool.fetch(_UNUSUAL_FEES, file_id)
        why = "what the provider has kept is booked as its fee, though psp_fees says otherwise"
        return await self.close([row["break_id"] for row in rows], BY_THE_FILE, why)

    # what the books never had

    async def _take_over(self, file_id: UUID) -> int:
        """Adopt what a file tells of and the books never had; returns how many breaks that closed."""
        if self._adoption is None or self._unrecorded == "queue":
            return 0
        closed = 0
        for row in await self._store.pool.fetch(_UNRECORDED, file_id):
            try:
                closed += await self._take_over_one(self._adoption, row)
            except NotListedError as error:
                log.warning("adoption_put_off", line=row["line_no"], file=row["name"], cause=str(error))
        return closed

    async def _take_over_one(self, adoption: Adoption, row: asyncpg.Record) -> int:
        things = await _things_of(adoption, row)
        if things is None or _is_of_other_mode(things.charge, row["mode"]):
            return 0
        why = f"{row['name']}, line {row['line_no']}, tells of it and no shop's request is in the books"
        adopted = await adoption.adopt_charges(
            row["provider"], [things.charge], by=BY_THE_FILE, why=why, shop_id=row["shop_id"]
        )
        candidate = candidate_of(things.charge)
        if candidate is None or not adopted[things.charge.provider_reference].is_here:
            return 0
        operation_id = candidate.intent.operation_id
        if things.act is not None:
            order = ChargedOrder(candidate.order_id, candidate.intent.mode)
            said = await adoption.adopt_action(row["provider"], things.act, order, by=BY_THE_FILE, why=why)
            found_id = _operation_id_of(things.act)
            if not said.is_here or found_id is None:
                return 0
            operation_id = found_id
        return await self._explain(row, things, operation_id)

    async def _explain(self, row: asyncpg.Record, things: _Things, operation_id: UUID) -> int:
        """Let the line speak for what was adopted, close its break, and refund it where policy says so."""
        await self._store.pool.execute(_CLAIM, row["file_id"], row["line_no"], operation_id)
        reason = "adopted from the provider's own word"
        if self._unrecorded == "refund" and row["kind"] == "charge" and self._refunds is not None:
            reason = "adopted from the provider's own word, and refunded by policy"
            order = await self._store.pool.fetchrow(_ADOPTED_ORDER, operation_id)
            if order is not None:
                await self._refunds.refund_unrecorded(order["shop_id"], Mode(order["mode"]), order["order_id"])
        stated = things.told.amount_minor if row["kind"] == "charge" else -things.told.amount_minor
        if (stated, things.told.currency) != (row["stated_minor"], row["currency"]):
            return 0  # it is in the books; that the file has another amount is for a person
        return await self.close([row["break_id"]], BY_THE_FILE, reason)

    # what came in parts

    async def join_parts(self, file_id: UUID) -> int:
        """Close the breaks of records whose last part a file has brought: the sum is exact. Returns how many.

        Many lines to one record, over time: each under the PSP's same name for it, never by amount alone (hazard H5).
        """
        rows = await self._store.pool.fetch("SELECT break_id FROM parts_of_a_whole($1)", file_id)
        return await self.close([row["break_id"] for row in rows], BY_THE_FILE, IN_PARTS)

    # what nobody has

    async def give_up_absent(self, shop_id: UUID, mode: Mode, provider: str) -> int:
        """Close what neither the PSP nor its files have as failed; returns how many (hazard H7: two confirmations).

        Only charges, captures and refunds outside the PSP's window, whose time all expected files have passed by more
        than their drift, and for which the PSP has said "not found" twice, long enough apart. Never by age alone.
        """
        adapter = None if self._adoption is None else self._adoption.providers.get(provider)
        if adapter is None:
            return 0
        at = self._clock.now()
        rows = await self._store.pool.fetch(_ABSENT, at, shop_id, mode.value, provider, DRIFT)
        given_up = 0
        for row in rows:
            standing = (await self._operations.stand([row["operation_id"]]))[row["operation_id"]]
            operation = standing.operation
            if not window_is_open(operation.intent, adapter.capabilities, at):
                lag = adapter.capabilities.look_up_lag
                given_up += await self._give_up(operation, row, lag)
        return given_up

    async def _give_up(self, operation: Operation, row: asyncpg.Record, lag: timedelta) -> bool:
        """Ask once more, and book what both have said. The first "not found" is in the events, with its time."""
        operation_id = operation.intent.operation_id
        before = await self._store.pool.fetch(_NOT_FOUND_BEFORE, operation.payment_id, operation_id, NOT_FOUND)
        for held in await self._operations.claim_named([operation_id]):
            outcome = await self._ask(held)
            at = self._clock.now()
            long_ago = [each["at"] for each in before if at - each["at"] >= lag]
            if outcome.kind is OutcomeKind.NOT_FOUND and long_ago:
                outcome = _absence(held, row, long_ago[0], at)
            await self._executor.settle(held, outcome)
            return outcome.decline_code == NOT_AT_PROVIDER
        return False

    async def _ask(self, operation: Operation) -> Outcome:
        if self._adoption is None:
            raise RuntimeError("nobody to ask")
        outcome = await self._adoption.ask(operation.provider, operation.intent)
        return msgspec.structs.replace(outcome, cause=NOT_FOUND) if outcome.kind is OutcomeKind.NOT_FOUND else outcome

    # closing

    async def close(self, break_ids: Sequence[UUID], who: str, why: str) -> int:
        """Close breaks with a reason and take out of suspense what stood there for them. Returns how many were open.

        Posts one transfer for each that has an amount there. Idempotent on the break.
        """
        async with self._store.pool.acquire() as connection, connection.transaction():
            return await self._closing.close_within(connection, break_ids, who, why)


def _contradicts(row: asyncpg.Record, standing: Standing) -> bool:
    return standing.operation.status.is_decided and not _agrees(row, standing)


def _agrees(row: asyncpg.Record, standing: Standing) -> bool:
    """Whether an operation stands as a line says. A refund or payout that came back has one line for each way."""
    status = standing.operation.status
    if row["kind"] in _THE_WAY_BACK:
        return status is OperationStatus.DECLINED
    return status is OperationStatus.APPROVED or (status is OperationStatus.DECLINED and row["came_back"])


async def _things_of(adoption: Adoption, row: asyncpg.Record) -> _Things | None:
    """Ask the PSP what a line of its file is about; None where it has none of it. Raises NotListedError."""
    registry = adoption.providers.get(row["provider"])
    if not isinstance(registry, Registry):
        return None
    named: str = row["provider_reference"]
    if row["kind"] == "refund":
        refund = await registry.find(named, OperationKind.REFUND)
        if refund is None or refund.charge_reference is None:
            return None
        charge = await registry.find(refund.charge_reference, None)
        return None if charge is None else _Things(charge, refund)
    charge = await registry.find(named, None)
    if charge is None and row["charge_reference"]:
        charge = await registry.find(row["charge_reference"], None)
    if charge is None:
        return None
    candidate = candidate_of(charge)
    if candidate is None or candidate.intent.kind is OperationKind.CHARGE:
        # Found by the charge it names and not by its own name: the line is about something that the PSP does not have.
        return _Things(charge, None) if charge.provider_reference == named else None
    capture = await registry.find(named, OperationKind.CAPTURE)
    return None if capture is None else _Things(charge, capture)


def _is_of_other_mode(charge: Found, mode: str) -> bool:
    """Whether a charge is of the other world than the file that tells of it (hazard I2)."""
    return charge.is_live is not (mode == Mode.LIVE)


def _operation_id_of(found: Found) -> UUID | None:
    return parse_id(OPERATION, found.reference or "")


def _absence(operation: Operation, row: asyncpg.Record, first: datetime, at: datetime) -> Outcome:
    """Put what the PSP and its files do not have into a decision, with all that it rests on."""
    intent = operation.intent
    evidence = (
        f"{operation.provider} found nothing under {intent.reference} at {_time(first)} and at {_time(at)}, and none "
        f"of its {row['files']} settlement files, which reach to {_time(row['covered_until'])}, has it"
    )
    return Outcome(
        kind=OutcomeKind.DECLINED,
        decline_code=NOT_AT_PROVIDER,
        reference=intent.reference,
        evidence=evidence,
        told_by=ToldBy.LOOK_UP,
    )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


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
        told_by=ToldBy.FILE,
    )
