"""Operations: what is asked of a PSP, who works on it, and what happens while the PSP has not decided.

Everything here is fenced by the lease: a write with an attempt number that somebody else has passed does nothing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.ids import time_ordered_ids
from coatcheck.metrics import Metrics
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Charge
from coatcheck.states import Mode, OperationStatus, OrderStatus
from coatcheck.store import Batcher, Store


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A committed intent that this process holds the lease of, as attempt number `attempt`.

    `sent_before` says that an earlier attempt may have reached the PSP; `cause` is why that one decided nothing.
    """

    attempt: int
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    provider: str
    seller_account: str
    commission_minor: int
    charge: Charge
    sent_before: bool = False
    order_status: OrderStatus = OrderStatus.EXECUTING
    cause: str | None = None


class Postponement(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with an operation that was not decided. `due_at` None: only a person may move it on."""

    operation: Operation
    outcome: Outcome
    kind: EventKind
    status: OperationStatus
    order_status: OrderStatus
    due_at: datetime | None
    was_sent: bool


class Operations:
    """The leases: register, postpone, claim, give back."""

    def __init__(self, store: Store, clock: Clock, *, holder: UUID, lease: timedelta, batch_size: int) -> None:
        self._store = store
        self._clock = clock
        self.holder = holder
        self.lease = lease
        lanes = 1 if batch_size > 1 else 4
        self._postpone = Batcher(self._postpone_batch, size=batch_size, lanes=lanes)
        self._register = Batcher(self._register_batch, size=batch_size, lanes=lanes)

    async def postpone(self, postponement: Postponement) -> bool:
        """Put an undecided operation back, with the evidence. False when another holder has taken it over."""
        return await self._postpone.submit(postponement)

    async def register(self, operation: Operation, provider_reference: str) -> bool:
        """Store the PSP's id of a two-step object before money moves. False when the lease is no longer ours."""
        return await self._register.submit((operation, provider_reference))

    async def mark_sending(self, operation: Operation) -> bool:
        """Commit that a claimed operation is about to be sent; False when the lease is no longer ours.

        Begins the idempotency window if nothing has left yet, and forgets what look-ups found before this sending: a
        "not found" from before it proves nothing after it, also when this process dies on the way (hazard A14).
        """
        marked: bool = await self._store.pool.fetchval(
            "SELECT mark_sending($1, $2, $3)",
            self._clock.now(),
            operation.charge.operation_id,
            operation.attempt,
        )
        return marked

    async def claim(self, most: int) -> list[Operation]:
        """Take over work whose time has come. Locks: the lease rows taken; claimers skip one another's."""
        at = self._clock.now()
        rows = await self._store.pool.fetch(
            "SELECT * FROM claim_operations($1, $2, $3, $4)", at, self.holder, at + self.lease, most
        )
        return [
            Operation(
                attempt=row["attempt"],
                order_id=row["order_id"],
                payment_id=row["payment_id"],
                shop_id=row["shop_id"],
                provider=row["provider"],
                seller_account=row["seller_account"],
                commission_minor=row["commission_minor"],
                sent_before=row["sent_before"],
                order_status=OrderStatus(row["order_status"]),
                cause=row["cause"],
                charge=Charge(
                    operation_id=row["operation_id"],
                    amount_minor=row["amount_minor"],
                    currency=row["currency"],
                    mode=Mode(row["mode"]),
                    body=row["body"],
                    first_sent_at=row["first_sent_at"],
                    provider_reference=row["provider_reference"],
                ),
            )
            for row in rows
        ]

    async def count(self, metrics: Metrics) -> None:
        """Set the gauges of what is undecided, what waits for a person, and the database's deadlocks."""
        (row,) = await self._store.pool.fetch(self._store.queries["operation_counts"])
        metrics.open_operations.set(row["open_operations"])
        metrics.unresolved_operations.set(row["unresolved_operations"])
        metrics.deadlocks.set(row["deadlocks"])

    async def release(self) -> int:
        """Give back everything this process holds, so that another can go on at once. Returns how many."""
        released: int = await self._store.pool.fetchval(
            "SELECT release_operations($1, $2)", self._clock.now(), self.holder
        )
        return released

    async def _postpone_batch(self, items: Sequence[Postponement]) -> list[bool]:
        at = self._clock.now()
        rows = [
            (
                item.operation.charge.operation_id,
                item.operation.attempt,
                item.status.value,
                item.operation.order_id,
                item.order_status.value,
                item.outcome.provider_reference,
                item.outcome.cause,
                item.due_at,
                item.was_sent,
                item.operation.payment_id,
                item.operation.shop_id,
                item.operation.charge.mode.value,
                event_id,
                item.kind.value,
                _postponed_body(item),
            )
            for item, event_id in zip(items, time_ordered_ids(at, len(items)), strict=True)
        ]
        return await self._fenced("reschedule_operations", 15, at, rows)

    async def _register_batch(self, items: Sequence[tuple[Operation, str]]) -> list[bool]:
        at = self._clock.now()
        rows = [
            (
                operation.charge.operation_id,
                operation.attempt,
                reference,
                operation.payment_id,
                operation.shop_id,
                operation.charge.mode.value,
                event_id,
                msgspec.json.encode(
                    {
                        "operation_id": operation.charge.operation_id,
                        "order_id": operation.order_id,
                        "attempt": operation.attempt,
                        "provider_reference": reference,
                    }
                ).decode(),
            )
            for (operation, reference), event_id in zip(items, time_ordered_ids(at, len(items)), strict=True)
        ]
        return await self._fenced("register_operations", 8, at, rows)

    async def _fenced(
        self, function: str, columns: int, at: datetime, rows: Sequence[tuple[object, ...]]
    ) -> list[bool]:
        places = ", ".join(f"${number}" for number in range(1, columns + 2))
        arrays = [list(column) for column in zip(*rows, strict=True)]
        answers = await self._store.pool.fetch(f"SELECT place, outcome FROM {function}({places})", at, *arrays)
        applied = {row["place"] for row in answers if row["outcome"] == "applied"}
        return [place in applied for place in range(1, len(rows) + 1)]


def _postponed_body(item: Postponement) -> str:
    body = {
        "operation_id": item.operation.charge.operation_id,
        "order_id": item.operation.order_id,
        "attempt": item.operation.attempt,
        "outcome": item.outcome.kind,
        "status": item.status,
        "order_status": item.order_status,
        "due_at": item.due_at,
        "was_sent": item.was_sent,
        "provider_reference": item.outcome.provider_reference,
        "cause": item.outcome.cause,
        "evidence": item.outcome.evidence,
        "answer": {
            "amount_minor": item.outcome.amount_minor,
            "currency": item.outcome.currency,
            "reference": item.outcome.reference,
            "is_live": item.outcome.is_live,
        },
    }
    return msgspec.json.encode(body).decode()
