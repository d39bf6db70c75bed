"""The two commits of a payout. No PSP is called here.

`request` is the first: the money leaves the seller's available balance together with the intent to pay it out, under
the lock of that balance (hazard D8). `apply` is the second. docs/payouts.md has the states.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import account_id_of, operation_id_of, payout_id_of, time_ordered_ids
from coatcheck.ledger import AccountBook, AccountName, TransferKind, payouts_in_transit, seller_available
from coatcheck.operations import Operation, Operations
from coatcheck.payouts.booking import Decided, decided_rows, transfer_id_of
from coatcheck.payouts.views import PayoutQuery, PayoutView, view_of
from coatcheck.providers.outcome import Outcome
from coatcheck.shops import Caller
from coatcheck.states import Mode, OperationKind
from coatcheck.store import Batcher, Store, again

_TRANSFER_COLUMNS = 8
_LAST_PLACE = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))


class PayoutVerdict(StrEnum):
    """What the seller's balance said of a payout; the first two are good. See 110_payouts.sql."""

    REQUESTED = "requested"
    EXISTS = "exists"
    KEY_REUSED = "key_reused"
    NO_DESTINATION = "no_destination"
    COOLING_DOWN = "cooling_down"
    NOTHING_AVAILABLE = "nothing_available"
    TOO_MUCH = "too_much"
    SKIPPED = "skipped"

    @property
    def is_good(self) -> bool:
        """Whether there is such a payout."""
        return self in (PayoutVerdict.REQUESTED, PayoutVerdict.EXISTS)


class PayoutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: `amount_minor` None is all that is available."""

    seller_account: str
    currency: str
    amount_minor: int | None = None

    def digest(self) -> bytes:
        """Name the content: SHA-256, the same for the same request."""
        content = msgspec.json.encode((1, self.seller_account, self.currency, self.amount_minor))
        return hashlib.sha256(content).digest()


class PayoutAnswer(msgspec.Struct, frozen=True):
    """The answer to a request: the payout's id, and the operation this process now has to run."""

    verdict: PayoutVerdict
    payout_id: UUID
    operations: Sequence[Operation] = ()


def payout_operation_id(payout_id: UUID) -> UUID:
    """Name what is asked of the PSP for a payout; printed, it is the key there. One for ever."""
    return operation_id_of(payout_id, OperationKind.PAYOUT)


class Payouts:
    """Takes payouts out of sellers' balances, books what became of them, and reads them."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        operations: Operations,
        *,
        batch_size: int,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._store = store
        self._failpoints = failpoints
        self._clock = clock
        self._operations = operations
        self._book = AccountBook(store, clock, batch_size=batch_size)
        self._apply = Batcher(self._apply_batch, size=batch_size, lanes=1 if batch_size > 1 else 4)

    async def request(self, caller: Caller, asked: PayoutRequest, key: str) -> PayoutAnswer:
        """Take a payout out of the seller's available balance and commit its operation, leased to this process.

        Posts available to payouts in transit. Idempotent on the key, for ever: a key pays out once. Locks: the
        destination (shared), then both accounts in id order.
        """
        payout_id = payout_id_of(caller.shop_id, caller.mode, key)
        payee = (caller.shop_id, caller.mode, asked.seller_account, asked.currency)
        has_destination = await self._store.pool.fetchval(self._store.queries["payout_destination_known"], *payee)
        # A payout that was adopted after a restore is there whatever became of its destination.
        if not has_destination and await self.read(payout_id) is None:
            return PayoutAnswer(PayoutVerdict.NO_DESTINATION, payout_id)
        await self.open_accounts(*payee)
        await self._failpoints.reach(Failpoint.PAYOUT_BEFORE_COMMIT)
        try:
            verdict = await self._request(caller, asked, key, payout_id)
        except asyncpg.UniqueViolationError:  # the same key for another seller, at the same moment: now it is there
            verdict = await self._request(caller, asked, key, payout_id)
        await self._failpoints.reach(Failpoint.PAYOUT_AFTER_COMMIT)
        is_new = verdict is PayoutVerdict.REQUESTED
        operations = await self._operations.held([payout_operation_id(payout_id)]) if is_new else []
        return PayoutAnswer(verdict, payout_id, operations)

    async def _request(self, caller: Caller, asked: PayoutRequest, key: str, payout_id: UUID) -> PayoutVerdict:
        at = self._clock.now()
        available, transit = account_ids(caller.shop_id, caller.mode, asked.seller_account, asked.currency)
        return PayoutVerdict(
            await again(
                self._store.pool.fetchval,
                "SELECT request_payout($1, $2, $3, $4, $5, $6, $7, $8, $9, false, $10, $11, $12, $13, NULL, $14, $15, "
                "$16)",
                at,
                self._operations.holder,
                at + self._operations.lease,
                payout_id,
                caller.shop_id,
                caller.mode.value,
                asked.seller_account,
                asked.currency,
                asked.amount_minor,
                available,
                transit,
                key,
                asked.digest(),
                payout_operation_id(payout_id),
                transfer_id_of(payout_id, TransferKind.PAYOUT),
                time_ordered_ids(at, 1)[0],
            )
        )

    async def open_accounts(self, shop_id: UUID, mode: Mode, seller: str, currency: str) -> None:
        """See to it that a seller's accounts are open; the bank's is with the destination. Commits on its own."""
        names: Sequence[AccountName] = (seller_available(seller), payouts_in_transit(seller))
        await self._book.ensure(shop_id, mode, [(name, currency) for name in names])

    async def apply(self, operation: Operation, outcome: Outcome) -> bool:
        """Book a PSP's decision. Posts the transfer of its effect; idempotent on the operation and its attempt.

        False when another holder has taken the operation over: its answer counts, not this one.
        Locks: the lease, the operation, the payout, then the accounts in id order.
        """
        return await self._apply.submit(Decided(operation, outcome))

    async def apply_within(self, connection: Any, operation: Operation, outcome: Outcome) -> bool:
        """Book a decision in the caller's transaction, as `apply` does."""
        (is_applied,) = await self._apply_on(connection, [Decided(operation, outcome)])
        return is_applied

    async def _apply_batch(self, items: Sequence[Decided]) -> list[bool]:
        return await self._apply_on(self._store.pool, items)

    async def _apply_on(self, writer: Any, items: Sequence[Decided]) -> list[bool]:
        at = self._clock.now()
        decisions, transfers = decided_rows(items, at)
        moved = list(zip(*transfers, strict=True)) or [()] * _TRANSFER_COLUMNS
        columns = [list(column) for column in (*zip(*decisions, strict=True), *moved)]
        rows = await writer.fetch(self._store.queries["payout_apply_outcomes"], at, *columns)
        applied = {place for place, outcome in rows if outcome == "applied"}
        return [place in applied for place in range(1, len(items) + 1)]

    async def read(self, payout_id: UUID) -> PayoutView | None:
        """Show a payout as it stands; None when there is no such payout."""
        row = await self._store.pool.fetchrow(self._store.queries["payout_read"], [payout_id])
        return None if row is None else view_of(row)

    async def find(
        self, query: PayoutQuery, *, before: tuple[datetime, UUID] | None = None, limit: int = 20
    ) -> list[PayoutView]:
        """List a shop's payouts, newest first, before a place."""
        rows = await self._store.pool.fetch(
            self._store.queries["payout_list"],
            *(query.shop_id, query.mode.value, *(before or _LAST_PLACE), limit, query.seller_account),
            *(None if query.status is None else query.status.value, query.run_id),
        )
        return [view_of(row) for row in rows]


def account_ids(shop_id: UUID, mode: Mode, seller: str, currency: str) -> tuple[UUID, UUID]:
    """Name the rows of a seller's available balance and of what is on its way to him."""
    return (
        account_id_of(shop_id, mode, seller_available(seller).name, currency),
        account_id_of(shop_id, mode, payouts_in_transit(seller).name, currency),
    )
