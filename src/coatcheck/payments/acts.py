"""What a shop asks for between the authorization and the end: capture, and cancel. No PSP is called here.

Both commit their operations leased to this process, like a charge. A key names the request for ever: asked again, it
finds the operations it made.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import time_ordered_ids
from coatcheck.operations import Operation, Operations
from coatcheck.store import Store, again


class ActVerdict(StrEnum):
    """What the order's row said of a request; the first two are good. See 050_requests.sql."""

    REQUESTED = "requested"
    EXISTS = "exists"
    DONE = "done"
    KEY_REUSED = "key_reused"
    UNKNOWN = "unknown"
    NOT_AUTHORIZED = "not_authorized"
    CHARGED = "charged"
    EXECUTING = "executing"
    BUSY = "busy"
    TOO_MUCH = "too_much"
    HELD_BACK = "held_back"

    @property
    def is_good(self) -> bool:
        """Whether what was asked for is under way or done."""
        return self in (ActVerdict.REQUESTED, ActVerdict.EXISTS, ActVerdict.DONE)


class Act(msgspec.Struct, frozen=True):
    """The answer to a request: each order's verdict, and the operations this process now has to run."""

    verdicts: Mapping[UUID, ActVerdict]
    operations: Sequence[Operation]


class Acts:
    """Commits captures and voids."""

    def __init__(self, store: Store, clock: Clock, operations: Operations, *, failpoints: Failpoints = CALM) -> None:
        self._store = store
        self._failpoints = failpoints
        self._clock = clock
        self._operations = operations

    async def capture(
        self, payment_id: UUID, amounts_minor: Mapping[UUID, int | None], *, is_final: bool, key: str
    ) -> Act:
        """Commit the capture of authorized orders: all that were asked for, or none.

        An amount None is all that is left of the order. Posts nothing. Idempotent on the key, for ever.
        Locks: the orders, in id order.
        """
        at = self._clock.now()
        await self._failpoints.reach(Failpoint.CAPTURE_BEFORE_COMMIT)
        rows = await again(
            self._store.pool.fetch,
            "SELECT * FROM request_captures($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            at,
            self._operations.holder,
            at + self._operations.lease,
            payment_id,
            list(amounts_minor),
            list(amounts_minor.values()),
            is_final,
            key,
            time_ordered_ids(at, 1)[0],
            msgspec.json.encode(
                {"payment_id": payment_id, "key": key, "is_final": is_final, "amounts_minor": _texts(amounts_minor)}
            ).decode(),
        )
        await self._failpoints.reach(Failpoint.CAPTURE_AFTER_COMMIT)
        return await self._act(rows)

    async def cancel(self, payment_id: UUID, order_ids: Sequence[UUID], key: str) -> Act:
        """Commit the voiding of a payment's orders that are authorized or pending; refused once one is charged.

        Posts nothing. Idempotent on the key, for ever. Locks: the orders, in id order.
        """
        at = self._clock.now()
        await self._failpoints.reach(Failpoint.CANCEL_BEFORE_COMMIT)
        rows = await again(
            self._store.pool.fetch,
            "SELECT * FROM request_cancel($1, $2, $3, $4, $5, $6, $7)",
            at,
            self._operations.holder,
            at + self._operations.lease,
            list(order_ids),
            key,
            time_ordered_ids(at, 1)[0],
            msgspec.json.encode({"payment_id": payment_id, "key": key}).decode(),
        )
        await self._failpoints.reach(Failpoint.CANCEL_AFTER_COMMIT)
        return await self._act(rows)

    async def _act(self, rows: Sequence[asyncpg.Record]) -> Act:
        verdicts = {row["order_id"]: ActVerdict(str(row["outcome"])) for row in rows}
        made = [row["operation_id"] for row in rows if row["outcome"] == ActVerdict.REQUESTED]
        operations = await self._operations.held(made) if made else []
        return Act(verdicts, operations)


def _texts(amounts_minor: Mapping[UUID, int | None]) -> dict[str, int | None]:
    return {str(order_id): amount for order_id, amount in amounts_minor.items()}
