"""Payouts that a PSP has and restored books have forgotten are taken over, so that nobody is paid twice (G16, D8).

A payout's id is made of its shop, mode and key, so whoever asks for it again, a shop or a run, finds what was adopted.
The rows, the transfers and the PSP's decision are one commit.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from coatcheck.clock import Clock
from coatcheck.executor import Executor
from coatcheck.ids import OPERATION, account_id_of, parse_id, payout_id_of
from coatcheck.ledger import (
    AccountBook,
    AccountName,
    TransferKind,
    payouts_in_transit,
    seller_available,
    seller_pending,
)
from coatcheck.operations import Operation, Operations
from coatcheck.payouts import Payouts
from coatcheck.payouts.booking import ahead_transfer_id_of, paid_from, transfer_id_of
from coatcheck.payouts.commits import payout_operation_id
from coatcheck.payouts.runs import item_key_of
from coatcheck.providers.outcome import Outcome, OutcomeKind
from coatcheck.providers.protocol import Found, Intent, PayoutOrigin
from coatcheck.reconciliation.adoption import Adopted, Adoption, fits
from coatcheck.states import Mode, OperationKind
from coatcheck.store import Store

_ASKED_AT_ONCE: Final = 20
_ADOPT: Final = f"SELECT adopt_payout({', '.join(f'${number}' for number in range(1, 24))})"

log = structlog.get_logger("coatcheck.adoption")


class PayoutCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A payout of a PSP's that is provably ours: its reference is the ticket of the key that we wrote on it."""

    found: Found
    origin: PayoutOrigin
    payout_id: UUID
    intent: Intent

    @property
    def accounts(self) -> tuple[AccountName, AccountName, AccountName]:
        """Name the seller's accounts that it moves money on: available, pending, in transit."""
        seller = self.origin.seller_account
        return seller_available(seller), seller_pending(seller), payouts_in_transit(seller)

    @property
    def account_ids(self) -> list[UUID]:
        """Name the rows of these accounts."""
        shop_id, mode, currency = self.origin.shop_id, self.intent.mode, self.intent.currency
        return [account_id_of(shop_id, mode, account.name, currency) for account in self.accounts]


def payout_candidate_of(found: Found) -> PayoutCandidate | None:
    """Say whose payout it is, by what we wrote on it; None where the reference does not prove it. Pure."""
    origin, operation_id = found.payout, parse_id(OPERATION, found.reference or "")
    if origin is None or operation_id is None or found.is_live is None or found.destination is None:
        return None
    mode = Mode.LIVE if found.is_live else Mode.TEST
    payout_id = payout_id_of(origin.shop_id, mode, origin.key)
    if payout_operation_id(payout_id) != operation_id or found.amount_minor < 1 or not _is_whole(origin):
        return None
    intent = Intent(
        operation_id=operation_id,
        kind=OperationKind.PAYOUT,
        amount_minor=found.amount_minor,
        currency=found.currency,
        mode=mode,
        body=b"",
        first_sent_at=found.made_at,
        provider_reference=found.provider_reference,
        target_reference=found.destination,
        payout=origin,
    )
    return PayoutCandidate(found=found, origin=origin, payout_id=payout_id, intent=intent)


def _is_whole(origin: PayoutOrigin) -> bool:
    """Whether run and key say the same; no shop's key has a space."""
    if origin.run_id is None:
        return " " not in origin.key
    return origin.key == item_key_of(origin.run_id, origin.seller_account)


class PayoutAdoption:
    """Takes over payouts that a PSP has."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        payouts: Payouts,
        operations: Operations,
        executor: Executor,
        adoption: Adoption,
    ) -> None:
        self._store = store
        self._clock = clock
        self._payouts = payouts
        self._operations = operations
        self._executor = executor
        self._adoption = adoption
        self._accounts = AccountBook(store, clock)

    async def adopt(self, provider: str, found: Sequence[Found], *, by: str, why: str) -> dict[str, Adopted]:
        """Take payouts over, as the PSP has them now; says of each, by the PSP's id, what became.

        Posts the transfers of the request and of the PSP's decision. Idempotent on the operation. Locks: adoptions, a
        run's item, the accounts in id order, then as a decision does.
        """
        verdicts = {each.provider_reference: Adopted.FOREIGN for each in found}
        ours = [candidate for candidate in map(payout_candidate_of, found) if candidate is not None]
        verdicts |= {each.found.provider_reference: Adopted.UNCLEAR for each in ours}
        for start in range(0, len(ours), _ASKED_AT_ONCE):
            part = ours[start : start + _ASKED_AT_ONCE]
            answers = await asyncio.gather(*[self._adoption.ask(provider, each.intent) for each in part])
            answered = zip(part, answers, strict=True)
            fitting = [(each, outcome) for each, outcome in answered if fits(each.intent, outcome)]
            await self._open_accounts(provider, [each for each, _ in fitting])
            for each, outcome in fitting:
                verdicts[each.found.provider_reference] = await self._adopt_one(provider, each, outcome, by, why)
        return verdicts

    async def _open_accounts(self, provider: str, candidates: Sequence[PayoutCandidate]) -> None:
        wanted: dict[tuple[UUID, Mode], dict[tuple[AccountName, str], None]] = defaultdict(dict)
        for each in candidates:
            names = (*each.accounts, paid_from(provider))
            wanted[each.origin.shop_id, each.intent.mode] |= {(name, each.intent.currency): None for name in names}
        for (shop_id, mode), accounts in wanted.items():
            await self._accounts.ensure(shop_id, mode, list(accounts))

    async def _adopt_one(
        self, provider: str, candidate: PayoutCandidate, outcome: Outcome, by: str, why: str
    ) -> Adopted:
        try:
            async with self._store.pool.acquire() as connection, connection.transaction():
                said = Adopted(await connection.fetchval(_ADOPT, *self._row_of(provider, candidate, by, why)))
                undecided: Operation | None = None
                if said is Adopted.ADOPTED:
                    undecided = await self._book(connection, candidate, outcome, why)
        except (asyncpg.CheckViolationError, asyncpg.UniqueViolationError) as error:
            log.warning("adoption_refused", reference=candidate.found.reference, error=str(error))
            return Adopted.CONFLICT
        if undecided is not None:
            await self._executor.settle(undecided, outcome)
        return said

    def _row_of(self, provider: str, candidate: PayoutCandidate, by: str, why: str) -> tuple[object, ...]:
        at, origin, intent = self._clock.now(), candidate.origin, candidate.intent
        return (
            *(at, self._operations.holder, at + self._operations.lease, by, why),
            *(candidate.payout_id, origin.shop_id, intent.mode.value, origin.seller_account, intent.currency),
            *(intent.amount_minor, provider, intent.target_reference, origin.key, origin.run_id),
            *(intent.operation_id, intent.provider_reference, candidate.found.made_at),
            *candidate.account_ids,
            *(transfer_id_of(candidate.payout_id, TransferKind.PAYOUT), ahead_transfer_id_of(candidate.payout_id)),
        )

    async def _book(self, connection: Any, candidate: PayoutCandidate, outcome: Outcome, why: str) -> Operation | None:
        """Book the PSP's decision about what was just adopted, in the same commit; returns it where there is none."""
        operation_id = candidate.intent.operation_id
        operation = (await self._operations.stand([operation_id], connection=connection))[operation_id].operation
        if not outcome.kind.is_definite:
            return operation
        if outcome.kind is OutcomeKind.DECLINED and candidate.found.was_paid:  # it came back: first it was paid
            paid = msgspec.structs.replace(outcome, kind=OutcomeKind.APPROVED, decline_code=None)
            await self._apply(connection, operation, paid)
            (operation,) = await self._operations.reopen([operation_id], why, connection=connection)
        await self._apply(connection, operation, outcome)
        return None

    async def _apply(self, connection: Any, operation: Operation, outcome: Outcome) -> None:
        if not await self._payouts.apply_within(connection, operation, outcome):
            raise RuntimeError("an adopted payout was taken by somebody else within its own commit")
