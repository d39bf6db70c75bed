"""Operations: what is asked of a PSP, who works on it, and what happens while the PSP has not decided.

Everything here is fenced by the lease: a write with an attempt number that somebody else has passed does nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from coatcheck.clock import Clock
from coatcheck.events import EventKind
from coatcheck.failpoints import CALM, Failpoint, Failpoints
from coatcheck.ids import operation_id_of, time_ordered_ids
from coatcheck.metrics import Metrics
from coatcheck.providers.outcome import Outcome
from coatcheck.providers.protocol import Intent, PayoutOrigin
from coatcheck.states import (
    Capture,
    Mode,
    OnFailure,
    OperationKind,
    OperationStatus,
    OrderStatus,
    PayoutStatus,
    RefundStatus,
)
from coatcheck.store import Batcher, Store

_HURRY_SOONEST = timedelta(seconds=5)
_EVIDENCE_SHOWN = 10
NOT_AT_PROVIDER = "not_at_provider"
"""The decline code of what was given up because neither the PSP nor its files have it (hazard H7)."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A committed intent that this process holds the lease of, as attempt number `attempt`.

    `tries`: how much of the retry budget was used before. `sent_before` says that an earlier attempt may have reached
    the PSP; `cause` is why that one decided nothing. The order's counts are those at the time of the claim (minor
    units). `is_joint`: of an all-or-nothing checkout. Of a payout order_id and payment_id are its own id.
    """

    attempt: int
    tries: int = 0
    order_id: UUID
    payment_id: UUID
    shop_id: UUID
    provider: str
    seller_account: str
    commission_minor: int
    intent: Intent
    sent_before: bool = False
    status: OperationStatus = OperationStatus.OPEN
    order_status: OrderStatus = OrderStatus.EXECUTING
    cause: str | None = None
    authorized_minor: int = 0
    captured_minor: int = 0
    refund_id: UUID | None = None
    refund_commission_minor: int = 0
    refund_status: RefundStatus | None = None
    payout_status: PayoutStatus | None = None
    is_joint: bool = False
    first_kind: OperationKind = OperationKind.CHARGE

    @property
    def first_operation_id(self) -> UUID:
        """The id of the order's charge or authorization."""
        return operation_id_of(self.order_id, self.first_kind)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An operation as it stands in the database, whoever works on it. `due_at` None and no holder: a person's turn.

    `is_acting`: a capture or void of its order is under way.
    """

    operation: Operation
    created_at: datetime
    has_lease: bool
    holder: UUID | None
    due_at: datetime | None
    is_acting: bool = False


class Postponement(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with an operation that was not decided. `due_at` None: only a person may move it on.

    `order_status` None: the order's status is not this operation's to say. `costs`: it used up one of its retries.
    `is_held_back`: the gate would have let a sending go, and the provider's circuit was open.
    """

    operation: Operation
    outcome: Outcome
    kind: EventKind
    status: OperationStatus
    order_status: OrderStatus | None
    due_at: datetime | None
    was_sent: bool
    costs: bool = True
    is_held_back: bool = False


def first_kind_of(capture: str, on_failure: str) -> OperationKind:
    """Say what an order's first operation is: its money is reserved where it is not to be taken at once."""
    is_reserved = capture == Capture.MANUAL or on_failure == OnFailure.ALL_OR_NOTHING
    return OperationKind.AUTHORIZE if is_reserved else OperationKind.CHARGE


class UndecidedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which undecided operations: of one shop and mode or, for whoever runs the gateway, of all.

    `cause`: a part of it, in any case. `made_until`: committed no later than that.
    """

    shop_id: UUID | None = None
    mode: Mode | None = None
    provider: str | None = None
    cause: str | None = None
    made_until: datetime | None = None


class Evidence(msgspec.Struct, frozen=True):
    """One thing that happened to an operation: an event's kind and body."""

    kind: str
    at: datetime
    body: dict[str, object]


class Operations:
    """The leases: register, postpone, claim, give back."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        holder: UUID,
        lease: timedelta,
        batch_size: int,
        failpoints: Failpoints = CALM,
    ) -> None:
        self._store = store
        self._failpoints = failpoints
        self._clock = clock
        self.holder = holder
        self.lease = lease
        lanes = 1 if batch_size > 1 else 4
        self._postpone = Batcher(self._postpone_batch, size=batch_size, lanes=lanes)
        self._register = Batcher(self._register_batch, size=batch_size, lanes=lanes)

    async def evidence(self, operation: Operation) -> list[Evidence]:
        """Read the last things that happened to an operation, newest first."""
        rows = await self._store.pool.fetch(
            self._store.queries["dead_letter_evidence"],
            operation.payment_id,
            operation.intent.operation_id,
            _EVIDENCE_SHOWN,
        )
        return [Evidence(row["kind"], row["at"], msgspec.json.decode(row["body"])) for row in rows]

    async def postpone(self, postponement: Postponement) -> bool:
        """Put an undecided operation back, with the evidence. False when another holder has taken it over."""
        return await self._postpone.submit(postponement)

    async def register(self, operation: Operation, provider_reference: str) -> bool:
        """Store the PSP's id of a two-step object before money moves. False when the lease is no longer ours."""
        return await self._register.submit((operation, provider_reference))

    async def mark_sending(self, operation: Operation, found: Outcome | None = None) -> bool:
        """Commit that a claimed operation is about to be sent; False when the lease is no longer ours.

        Begins the idempotency window if nothing has left yet, and forgets what look-ups found before this sending: a
        "not found" from before it proves nothing after it, also when this process dies on the way (hazard A14).
        `found`: what the look-up said that allows this sending; the event keeps it.
        """
        marked: bool = await self._store.pool.fetchval(
            "SELECT mark_sending($1, $2, $3, $4)",
            self._clock.now(),
            operation.intent.operation_id,
            operation.attempt,
            None if found is None else msgspec.json.encode(_answer_of(found)).decode(),
        )
        return marked

    async def tell(self, operation: Operation, kind: EventKind, body: Mapping[str, Any]) -> None:
        """Write an event about an operation that changes no row."""
        at = self._clock.now()
        await self._store.pool.execute(
            self._store.queries["event_write"],
            operation.payment_id,
            time_ordered_ids(at, 1)[0],
            kind.value,
            operation.shop_id,
            operation.intent.mode.value,
            at,
            msgspec.json.encode(
                {"operation_id": operation.intent.operation_id, "order_id": operation.order_id, **body}
            ).decode(),
        )

    async def claim(self, most: int, room: Mapping[str, int] | None = None) -> list[Operation]:
        """Take over work whose time has come: of each provider so much, or the `room` it has.

        Locks: the lease rows taken; claimers skip one another's.
        """
        at = self._clock.now()
        room = room or {}
        rows = await self._store.pool.fetch(
            "SELECT * FROM claim_operations($1, $2, $3, $4, $5, $6)",
            at,
            self.holder,
            at + self.lease,
            most,
            list(room),
            list(room.values()),
        )
        return await self._claimed(rows)

    async def claim_named(self, operation_ids: Sequence[UUID]) -> list[Operation]:
        """Take over undecided operations that nobody is working on at this moment; the others are left out."""
        at = self._clock.now()
        rows = await self._store.pool.fetch(
            "SELECT * FROM claim_named($1, $2, $3, $4)", at, self.holder, at + self.lease, list(operation_ids)
        )
        return await self._claimed(rows)

    async def hurry(self, operation_ids: Sequence[UUID]) -> int:
        """Make the look-ups of hosted pages due now, because somebody is back from there. Returns how many were not.

        The PSP is not asked here, and of each no oftener than every 5 seconds, after five minutes no oftener than a
        sixtieth of its age. Takes no lease; what is held, or waits for a PSP that did not answer, is left as it is.
        Locks: the leases it moves.
        """
        hurried: int = await self._store.pool.fetchval(
            "SELECT hurry_look_ups($1, $2, $3)", self._clock.now(), _HURRY_SOONEST, list(operation_ids)
        )
        return hurried

    async def reopen(self, operation_ids: Sequence[UUID], why: str, *, connection: Any = None) -> list[Operation]:
        """Ask again about decided operations of which the PSP says something else by now. They are never sent again.

        `connection`: within its transaction.
        """
        at = self._clock.now()
        rows = await (connection or self._store.pool).fetch(
            "SELECT * FROM reopen_operations($1, $2, $3, $4, $5)",
            at,
            self.holder,
            at + self.lease,
            list(operation_ids),
            why,
        )
        return await self._claimed(rows, connection)

    async def claim_authorizations(self, soonest: timedelta, latest: timedelta, most: int) -> list[UUID]:
        """Take the authorizations that it is time to ask about.

        They come again at their end, or after it in growing distances from `soonest` to `latest`.
        """
        at = self._clock.now()
        rows = await self._store.pool.fetch(
            "SELECT * FROM claim_authorizations($1, $2, $3, $4)", at, soonest, latest, most
        )
        return [row["operation_id"] for row in rows]

    async def stand(self, operation_ids: Iterable[UUID], *, connection: Any = None) -> dict[UUID, Standing]:
        """Read how operations stand; those that do not exist are left out. `connection`: within its transaction."""
        reader = connection or self._store.pool
        rows = await reader.fetch(self._store.queries["operation_read"], list(set(operation_ids)))
        return {row["operation_id"]: _standing_of(row) for row in rows}

    async def held(self, operation_ids: Iterable[UUID]) -> list[Operation]:
        """Read operations that this process has just made and holds the leases of."""
        return [standing.operation for standing in (await self.stand(operation_ids)).values()]

    async def _claimed(self, claims: Sequence[asyncpg.Record], connection: Any = None) -> list[Operation]:
        if not claims:
            return []
        await self._failpoints.reach(Failpoint.CLAIM_BEFORE_READ)
        attempts = {row["operation_id"]: row["attempt"] for row in claims}
        standing = await self.stand(attempts, connection=connection)
        # Read after the claim: the attempt is the claim's own, whatever has happened since.
        return [
            msgspec.structs.replace(standing[operation_id].operation, attempt=attempt)
            for operation_id, attempt in attempts.items()
            if operation_id in standing
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
                item.operation.intent.operation_id,
                item.operation.attempt,
                item.status.value,
                item.operation.order_id,
                None if item.order_status is None else item.order_status.value,
                item.outcome.provider_reference,
                item.outcome.cause,
                item.due_at,
                item.was_sent,
                item.costs,
                item.outcome.redirect_url,
                item.operation.payment_id,
                item.operation.shop_id,
                item.operation.intent.mode.value,
                event_id,
                item.kind.value,
                _postponed_body(item),
            )
            for item, event_id in zip(items, time_ordered_ids(at, len(items)), strict=True)
        ]
        return await self._fenced("reschedule_operations", 17, at, rows)

    async def _register_batch(self, items: Sequence[tuple[Operation, str]]) -> list[bool]:
        at = self._clock.now()
        rows = [
            (
                operation.intent.operation_id,
                operation.attempt,
                reference,
                operation.payment_id,
                operation.shop_id,
                operation.intent.mode.value,
                event_id,
                msgspec.json.encode(
                    {
                        "operation_id": operation.intent.operation_id,
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
        "operation_id": item.operation.intent.operation_id,
        "order_id": item.operation.order_id,
        "attempt": item.operation.attempt,
        "status": item.status,
        "order_status": item.order_status,
        "due_at": item.due_at,
        "was_sent": item.was_sent,
        "costs": item.costs,
        "redirect_url": item.outcome.redirect_url,
        **_answer_of(item.outcome),
    }
    if item.is_held_back:
        body["is_held_back"] = True
    return msgspec.json.encode(body).decode()


def _answer_of(outcome: Outcome) -> dict[str, Any]:
    """Write what an answer that decided nothing said, and by which way it came where that was no sending."""
    answer: dict[str, Any] = {
        "outcome": outcome.kind,
        "provider_reference": outcome.provider_reference,
        "cause": outcome.cause,
        "evidence": outcome.evidence,
        "answer": {
            "amount_minor": outcome.amount_minor,
            "currency": outcome.currency,
            "reference": outcome.reference,
            "is_live": outcome.is_live,
        },
    }
    return answer if outcome.told_by is None else answer | {"told_by": outcome.told_by}


def _standing_of(row: asyncpg.Record) -> Standing:
    return Standing(
        operation=_operation_of(row),
        created_at=row["created_at"],
        has_lease=row["lease_attempt"] is not None,
        holder=row["holder"],
        due_at=row["due_at"],
        is_acting=row["is_acting"],
    )


def _operation_of(row: asyncpg.Record) -> Operation:
    return Operation(
        attempt=row["attempt"],
        tries=row["tries"],
        order_id=row["order_id"],
        payment_id=row["payment_id"],
        shop_id=row["shop_id"],
        provider=row["provider"],
        seller_account=row["seller_account"],
        commission_minor=row["commission_minor"],
        sent_before=row["first_sent_at"] is not None,
        status=OperationStatus(row["status"]),
        order_status=OrderStatus(row["order_status"]),
        cause=row["cause"],
        authorized_minor=row["authorized_minor"],
        captured_minor=row["captured_minor"],
        refund_id=row["refund_id"],
        refund_commission_minor=row["refund_commission_minor"] or 0,
        refund_status=None if row["refund_status"] is None else RefundStatus(row["refund_status"]),
        payout_status=None if row["payout_status"] is None else PayoutStatus(row["payout_status"]),
        is_joint=row["on_failure"] == OnFailure.ALL_OR_NOTHING,
        first_kind=first_kind_of(row["capture"], row["on_failure"]),
        intent=Intent(
            operation_id=row["operation_id"],
            kind=OperationKind(row["kind"]),
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            mode=Mode(row["mode"]),
            body=row["body"],
            first_sent_at=row["first_sent_at"],
            provider_reference=row["provider_reference"],
            target_reference=row["target_reference"],
            is_final=row["is_final"],
            is_hosted=row["is_hosted"],
            refund_id=row["refund_id"],
            payout=None if row["payout_key"] is None else _payout_of(row),
        ),
    )


def _payout_of(row: asyncpg.Record) -> PayoutOrigin:
    return PayoutOrigin(
        shop_id=row["shop_id"],
        seller_account=row["seller_account"],
        key=row["payout_key"],
        run_id=row["payout_run_id"],
    )
