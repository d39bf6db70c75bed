"""Refunds: money back to a buyer, in whole or in parts, never more than was captured. No PSP is called here.

A refund is reserved on the order's one row and committed with its operation before anybody is asked; what becomes of it
is booked like a charge. docs/refunds.md has the states.
"""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import operation_id_of, refund_id_of, time_ordered_ids
from coatcheck.operations import Operation, Operations
from coatcheck.shops import Caller
from coatcheck.states import Mode, OperationKind, RefundStatus
from coatcheck.store import Store, again


class RefundVerdict(StrEnum):
    """What the order's row said of a refund; the first two are good. See 050_requests.sql."""

    REQUESTED = "requested"
    EXISTS = "exists"
    KEY_REUSED = "key_reused"
    UNKNOWN = "unknown"
    NOT_CAPTURED = "not_captured"
    DISPUTED = "disputed"
    TOO_MUCH = "too_much"

    @property
    def is_good(self) -> bool:
        """Whether there is such a refund."""
        return self in (RefundVerdict.REQUESTED, RefundVerdict.EXISTS)


class RefundView(msgspec.Struct, frozen=True, kw_only=True):
    """A refund as it stands. Minor units; `commission_minor` is what the platform gives of the amount."""

    refund_id: UUID
    shop_id: UUID
    mode: Mode
    payment_id: UUID
    payment_order_id: str
    amount_minor: int
    commission_minor: int
    currency: str
    status: RefundStatus
    reason: str | None
    decline_code: str | None
    provider_reference: str | None
    created_at: datetime
    decided_at: datetime | None


class RefundRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for: `amount_minor` None is all that is left of the order."""

    order_id: UUID
    amount_minor: int | None = None
    reason: str | None = None

    def digest(self) -> bytes:
        """Name the content: SHA-256, the same for the same request."""
        return hashlib.sha256(msgspec.json.encode((1, self.order_id, self.amount_minor, self.reason))).digest()


class RefundAnswer(msgspec.Struct, frozen=True):
    """The answer to a request: the refund's id, and the operation this process now has to run."""

    verdict: RefundVerdict
    refund_id: UUID
    operations: Sequence[Operation] = ()


class Refunds:
    """Reserves refunds and reads them. `returns_commission`: the platform gives its share of the commission back."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        operations: Operations,
        *,
        returns_commission: bool,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._store = store
        self._failpoints = failpoints
        self._clock = clock
        self._operations = operations
        self._returns_commission = returns_commission

    async def request(self, caller: Caller, asked: RefundRequest, key: str) -> RefundAnswer:
        """Reserve a refund on its order and commit its operation. Posts nothing; the PSP's word does.

        Idempotent on the key, for ever: a key can give back once. Locks: the order.
        """
        return await self._request(refund_id_of(caller.shop_id, caller.mode, key), asked, key, is_ours=True)

    async def refund_late(self, most: int) -> int:
        """Reserve the refunds that policy owes for orders which succeeded after they had been given up (hazard A9).

        Each has a key of its order's, so it is made once whoever does it; recovery runs it. Returns how many.
        """
        await self._failpoints.reach(Failpoint.LATE_BEFORE_READ)
        rows = await self._store.pool.fetch(self._store.queries["refund_late"], most)
        for row in rows:
            key = f"late-success {row['order_id']}"
            refund_id = refund_id_of(row["shop_id"], row["mode"], key)
            asked = RefundRequest(order_id=row["order_id"], reason="the charge succeeded after it had been given up")
            await self._failpoints.reach(Failpoint.LATE_BEFORE_REQUEST)
            await self._request(refund_id, asked, key, is_ours=False)
        return len(rows)

    async def refund_unrecorded(self, shop_id: UUID, mode: Mode, order_id: UUID) -> None:
        """Reserve the refund of a charge that no shop's request is known for, by policy (hazard H6).

        It has a key of its order's, so it is made once whoever does it; recovery runs it.
        """
        key = f"unrecorded {order_id}"
        asked = RefundRequest(order_id=order_id, reason="the provider had charged it, and the books had no request")
        await self._request(refund_id_of(shop_id, mode, key), asked, key, is_ours=False)

    async def _request(self, refund_id: UUID, asked: RefundRequest, key: str, *, is_ours: bool) -> RefundAnswer:
        """`is_ours`: this process runs the operation at once; else it is due for whoever comes first."""
        at = self._clock.now()
        operation_id = operation_id_of(asked.order_id, OperationKind.REFUND, refund_id.hex)
        await self._failpoints.reach(Failpoint.REFUND_BEFORE_COMMIT)
        verdict = RefundVerdict(
            await again(
                self._store.pool.fetchval,
                "SELECT request_refund($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                at,
                self._operations.holder if is_ours else None,
                at + self._operations.lease if is_ours else None,
                refund_id,
                asked.order_id,
                asked.amount_minor,
                self._returns_commission or not is_ours,  # what we give back ourselves was never sold
                key,
                asked.digest(),
                asked.reason,
                operation_id,
                time_ordered_ids(at, 1)[0],
            )
        )
        await self._failpoints.reach(Failpoint.REFUND_AFTER_COMMIT)
        is_to_run = is_ours and verdict is RefundVerdict.REQUESTED
        operations = await self._operations.held([operation_id]) if is_to_run else []
        return RefundAnswer(verdict, refund_id, operations)

    async def read(self, refund_id: UUID) -> RefundView | None:
        """Show a refund as it stands; None when there is no such refund."""
        row = await self._store.pool.fetchrow(self._store.queries["refund_read"], refund_id)
        return None if row is None else _view_of(row)

    async def of_order(self, order_id: UUID) -> list[RefundView]:
        """Show an order's refunds, oldest first."""
        return [_view_of(row) for row in await self._store.pool.fetch(self._store.queries["refund_list"], order_id)]


def _view_of(row: asyncpg.Record) -> RefundView:
    return RefundView(
        refund_id=row["refund_id"],
        shop_id=row["shop_id"],
        mode=Mode(row["mode"]),
        payment_id=row["payment_id"],
        payment_order_id=row["payment_order_id"],
        amount_minor=row["amount_minor"],
        commission_minor=row["commission_minor"],
        currency=row["currency"],
        status=RefundStatus(row["status"]),
        reason=row["reason"],
        decline_code=row["decline_code"],
        provider_reference=row["provider_reference"],
        created_at=row["created_at"],
        decided_at=row["decided_at"],
    )
