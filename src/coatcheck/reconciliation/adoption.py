"""Adoption: what a PSP has charged and our books have not is taken over from the PSP's own word (hazards H6, G16).

The ids are the tickets that the shop's requests make, so whoever asks for the same again finds what was adopted, and
nothing is charged a second time. The rows, the PSP's decision and its transfers are one commit.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.executor import Executor, mismatch_of
from coatcheck.ids import OPERATION, derive_id, operation_id_of, order_id_of, parse_id, payment_id_of
from coatcheck.ledger import AccountBook, AccountName, charge_accounts
from coatcheck.operations import Operation, Operations
from coatcheck.payments import Payments
from coatcheck.providers.outcome import Outcome, OutcomeKind, ToldBy
from coatcheck.providers.protocol import Found, Intent, Origin, Provider
from coatcheck.states import Mode, OperationKind
from coatcheck.store import Store

_ASKED_AT_ONCE: Final = 20
_TRIES: Final = 3
_ADOPT: Final = (
    f"SELECT place, outcome FROM adopt_charges({', '.join(f'${number}' for number in range(1, 21))}) ORDER BY place"
)
_ADOPT_ACTION: Final = f"SELECT adopt_action({', '.join(f'${number}' for number in range(1, 17))})"
_ORDERS: Final = """
SELECT c.provider_reference, c.order_id, c.mode FROM operation AS c
 WHERE c.provider = $1 AND c.kind IN ('charge', 'authorize') AND c.provider_reference = ANY ($2)
"""

log = structlog.get_logger("coatcheck.adoption")


class Adopted(StrEnum):
    """What became of one thing that a PSP has."""

    ADOPTED = "adopted"  # it is in the books now
    EXISTS = "exists"  # it was there already
    CONFLICT = "conflict"  # its order or checkout stands for something else here
    FOREIGN = "foreign"  # nothing says that it is ours
    NOT_POSSIBLE = "not_possible"  # its order does not allow it as the books stand
    UNCLEAR = "unclear"  # the PSP's own answer about it is about something else, or there was none

    @property
    def is_here(self) -> bool:
        """Whether the books have it by now."""
        return self in (Adopted.ADOPTED, Adopted.EXISTS)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A charge or authorization of a PSP's that is provably ours: its reference is the ticket of its order."""

    found: Found
    origin: Origin
    order_id: UUID
    intent: Intent

    @property
    def payment_id(self) -> UUID:
        """The ticket of its checkout."""
        return payment_id_of(self.origin.shop_id, self.intent.mode, self.origin.checkout_id)


class ChargedOrder(msgspec.Struct, frozen=True):
    """The order that a PSP's charge belongs to, and its world."""

    order_id: UUID
    mode: Mode


_Answered = tuple[Candidate, Outcome]


def candidate_of(found: Found) -> Candidate | None:
    """Say whose charge it is, by what we wrote on it; None where the reference does not prove it. Pure."""
    origin, operation_id = found.origin, parse_id(OPERATION, found.reference or "")
    if origin is None or operation_id is None or found.is_live is None or not found.is_first:
        return None
    mode = Mode.LIVE if found.is_live else Mode.TEST
    order_id = order_id_of(origin.shop_id, mode, origin.payment_order_id)
    kinds = (OperationKind.CHARGE, OperationKind.AUTHORIZE)
    kind = next((each for each in kinds if operation_id_of(order_id, each) == operation_id), None)
    if kind is None or not 0 <= origin.commission_minor <= found.amount_minor:
        return None
    intent = Intent(
        operation_id=operation_id,
        kind=kind,
        amount_minor=found.amount_minor,
        currency=found.currency,
        mode=mode,
        body=b"",
        first_sent_at=found.made_at,
        provider_reference=found.provider_reference,
    )
    return Candidate(found=found, origin=origin, order_id=order_id, intent=intent)


class Adoption:
    """Takes over what PSPs have. `returns_commission`: as for the refunds that a shop asks for."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        payments: Payments,
        operations: Operations,
        executor: Executor,
        providers: Mapping[str, Provider],
        returns_commission: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._payments = payments
        self._operations = operations
        self._executor = executor
        self.providers = providers
        self._returns_commission = returns_commission
        self._accounts = AccountBook(store, clock)

    # charges and authorizations

    async def adopt_charges(
        self, provider: str, found: Sequence[Found], *, by: str, why: str, shop_id: UUID | None = None
    ) -> dict[str, Adopted]:
        """Take charges and authorizations over, as the PSP has them now; says of each, by the PSP's id, what became.

        Posts the transfers of each decision. `shop_id`: only this shop's. Idempotent on the operation.
        Locks: adoptions, then as a decision does.
        """
        verdicts = {each.provider_reference: Adopted.FOREIGN for each in found}
        ours = {
            candidate.intent.operation_id: candidate
            for candidate in map(candidate_of, found)
            if candidate is not None and shop_id in (None, candidate.origin.shop_id)
        }
        answered = await self._look_up(provider, list(ours.values()))
        verdicts |= {each.found.provider_reference: Adopted.UNCLEAR for each in ours.values()}
        fitting = [(each, outcome) for each, outcome in answered if fits(each.intent, outcome)]
        await self._open_accounts(provider, [each for each, _ in fitting])
        return verdicts | await self._adopt(provider, fitting, by, why)

    async def _look_up(self, provider: str, candidates: Sequence[Candidate]) -> list[_Answered]:
        """Ask the PSP about each: its list tells that something is there, its answer what it is."""
        gate = asyncio.Semaphore(_ASKED_AT_ONCE)

        async def ask(candidate: Candidate) -> _Answered:
            async with gate:
                outcome = await self.ask(provider, candidate.intent)
                was_captured = candidate.found.status is OutcomeKind.APPROVED
                return candidate, as_it_began(candidate.intent, outcome, was_captured=was_captured)

        return await asyncio.gather(*[ask(candidate) for candidate in candidates])

    async def ask(self, provider: str, intent: Intent) -> Outcome:
        """Ask a PSP what became of an intent; of an authorization say until when it lives. Moves no money."""
        adapter = self.providers[provider]
        outcome = msgspec.structs.replace(await adapter.look_up(intent), told_by=ToldBy.LOOK_UP)
        if intent.kind is OperationKind.AUTHORIZE and outcome.expires_at is None:
            life = adapter.capabilities.authorization_life
            outcome = msgspec.structs.replace(outcome, expires_at=(intent.first_sent_at or self._clock.now()) + life)
        return outcome

    async def _open_accounts(self, provider: str, candidates: Sequence[Candidate]) -> None:
        wanted: dict[tuple[UUID, Mode], list[tuple[AccountName, str]]] = defaultdict(list)
        for each in candidates:
            names = charge_accounts(provider, each.origin.seller_account)
            wanted[each.origin.shop_id, each.intent.mode] += [(name, each.intent.currency) for name in names]
        for (shop_id, mode), accounts in wanted.items():
            await self._accounts.ensure(shop_id, mode, accounts)

    async def _adopt(self, provider: str, answered: Sequence[_Answered], by: str, why: str) -> dict[str, Adopted]:
        """Commit a batch; one that the database refuses is halved, so that a bad one does not keep the others out."""
        if not answered:
            return {}
        try:
            outcomes, undecided = await self._commit_through_trouble(provider, answered, by, why)
        except (asyncpg.UniqueViolationError, asyncpg.CheckViolationError) as error:
            if len(answered) == 1:
                log.warning("adoption_refused", reference=answered[0][0].found.reference, error=str(error))
                return {answered[0][0].found.provider_reference: Adopted.CONFLICT}
            middle = len(answered) // 2
            first = await self._adopt(provider, answered[:middle], by, why)
            return first | await self._adopt(provider, answered[middle:], by, why)
        for operation, outcome in undecided:
            await self._executor.settle(operation, outcome)
        return {each.found.provider_reference: said for (each, _), said in zip(answered, outcomes, strict=True)}

    async def _commit_through_trouble(
        self, provider: str, answered: Sequence[_Answered], by: str, why: str
    ) -> tuple[list[Adopted], list[tuple[Operation, Outcome]]]:
        """Commit, and again where the shop's own retry was in the way at that moment."""
        for _ in range(_TRIES - 1):
            try:
                return await self._commit(provider, answered, by, why)
            except (asyncpg.DeadlockDetectedError, asyncpg.SerializationError):
                continue
        return await self._commit(provider, answered, by, why)

    async def _commit(
        self, provider: str, answered: Sequence[_Answered], by: str, why: str
    ) -> tuple[list[Adopted], list[tuple[Operation, Outcome]]]:
        at, holder = self._clock.now(), self._operations.holder
        async with self._store.pool.acquire() as connection, connection.transaction():
            columns = [list(column) for column in zip(*[_row_of(provider, each) for each, _ in answered], strict=True)]
            rows = await connection.fetch(_ADOPT, at, holder, at + self._operations.lease, by, why, *columns)
            said = [Adopted(row["outcome"]) for row in rows]
            adopted = {
                each.intent.operation_id: outcome
                for (each, outcome), word in zip(answered, said, strict=True)
                if word is Adopted.ADOPTED
            }
            undecided = await self._book(connection, adopted)
        return said, undecided

    async def _book(self, connection: Any, adopted: Mapping[UUID, Outcome]) -> list[tuple[Operation, Outcome]]:
        """Book the PSP's decisions about what was just adopted, in the same commit; returns what is undecided."""
        standing = await self._operations.stand(adopted, connection=connection)
        held = [(standing[operation_id].operation, outcome) for operation_id, outcome in adopted.items()]
        decided = [each for each in held if each[1].kind.is_definite]
        if not all(await self._payments.apply_within(connection, decided)):
            raise RuntimeError("an adopted operation was taken by somebody else within its own commit")
        return [each for each in held if not each[1].kind.is_definite]

    async def _book_as_paid(self, connection: Any, operation_id: UUID, outcome: Outcome, why: str) -> None:
        """Book first that the money went, of what came back since: the PSP's files tell of both (hazard D6)."""
        paid = msgspec.structs.replace(outcome, kind=OutcomeKind.APPROVED, decline_code=None)
        await self._book(connection, {operation_id: paid})
        await self._operations.reopen([operation_id], why, connection=connection)

    # what was done with them

    async def orders_of(self, provider: str, charges: Sequence[str]) -> dict[str, ChargedOrder]:
        """Find the orders of a PSP's charges, by the PSP's ids."""
        rows = await self._store.pool.fetch(_ORDERS, provider, list(set(charges)))
        return {row["provider_reference"]: ChargedOrder(row["order_id"], Mode(row["mode"])) for row in rows}

    async def adopt_action(
        self, provider: str, found: Found, order: ChargedOrder | None, *, by: str, why: str
    ) -> Adopted:
        """Take a capture, void or refund over, as the PSP has it now. Posts the transfers of its decision.

        Idempotent on the operation. Locks: adoptions, the order, then as a decision does.
        """
        operation_id = parse_id(OPERATION, found.reference or "")
        if order is None or operation_id is None or found.kind is None:
            return Adopted.FOREIGN
        intent = _intent_of(found, found.kind, operation_id, order)
        outcome = await self.ask(provider, intent)
        if not fits(intent, outcome):
            return Adopted.UNCLEAR
        at, holder = self._clock.now(), self._operations.holder
        row = (
            *(operation_id, found.kind.value, order.order_id, found.charge_reference, found.provider_reference),
            *(found.amount_minor, found.currency, found.made_at, found.is_final, intent.refund_id),
        )
        undecided: list[tuple[Operation, Outcome]] = []
        try:
            async with self._store.pool.acquire() as connection, connection.transaction():
                said = await connection.fetchval(
                    _ADOPT_ACTION,
                    *(at, holder, at + self._operations.lease, by, why, *row, self._returns_commission),
                )
                if said == Adopted.ADOPTED:
                    if found.was_paid and outcome.kind is OutcomeKind.DECLINED:
                        await self._book_as_paid(connection, operation_id, outcome, why)
                    undecided = await self._book(connection, {operation_id: outcome})
        except asyncpg.CheckViolationError as error:
            log.warning("adoption_refused", reference=found.reference, error=str(error))
            return Adopted.NOT_POSSIBLE
        for operation, silence in undecided:
            await self._executor.settle(operation, silence)
        words = {"unknown": Adopted.FOREIGN, **{each.value: each for each in Adopted}}
        return words.get(said, Adopted.NOT_POSSIBLE)  # or why no refund may be reserved


def as_it_began(intent: Intent, outcome: Outcome, *, was_captured: bool) -> Outcome:
    """Take an authorization that was captured as the reservation it was: the captures are adopted after it.

    Of one whose rest was let go with the capture a PSP says that it is over.
    """
    if intent.kind is not OperationKind.AUTHORIZE or not (outcome.is_cancelled and was_captured):
        return outcome
    return msgspec.structs.replace(outcome, kind=OutcomeKind.APPROVED, is_cancelled=False, decline_code=None)


def fits(intent: Intent, outcome: Outcome) -> bool:
    """Whether an answer is about this very thing, and says that there is one."""
    is_there = outcome.kind in (OutcomeKind.APPROVED, OutcomeKind.DECLINED, OutcomeKind.PENDING)
    return is_there and mismatch_of(intent, outcome) is None


def _intent_of(found: Found, kind: OperationKind, operation_id: UUID, order: ChargedOrder) -> Intent:
    """Write down what must have been asked for. A refund without the id we gave it gets one that nobody else makes."""
    refund_id = None
    if kind is OperationKind.REFUND:
        refund_id = found.refund_id
        if refund_id is None or operation_id_of(order.order_id, kind, refund_id.hex) != operation_id:
            refund_id = derive_id("adopted refund", operation_id.hex)
    return Intent(
        operation_id=operation_id,
        kind=kind,
        amount_minor=found.amount_minor,
        currency=found.currency,
        mode=order.mode,
        body=b"",
        first_sent_at=found.made_at,
        provider_reference=found.provider_reference,
        target_reference=found.charge_reference,
        is_final=found.is_final,
        refund_id=refund_id,
    )


def _row_of(provider: str, candidate: Candidate) -> tuple[object, ...]:
    """Write the columns of adopt_charges that start with g_, in their order."""
    origin, intent = candidate.origin, candidate.intent
    return (
        *(candidate.payment_id, origin.shop_id, intent.mode.value, origin.checkout_id, candidate.order_id),
        *(origin.payment_order_id, origin.seller_account, intent.amount_minor, origin.commission_minor),
        *(intent.currency, provider, intent.operation_id, intent.kind.value, intent.provider_reference),
        candidate.found.made_at,
    )
